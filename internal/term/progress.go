// SPDX-License-Identifier: Apache-2.0

package term

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// IsTerminal reports whether v, a reader or writer, is a terminal.
func IsTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && f != nil && term.IsTerminal(int(f.Fd()))
}

// Bars draws a bar for each piece of long work. Start may be called from
// several goroutines.
type Bars struct {
	p *mpb.Progress
}

// NewBars returns bars on w, which is a terminal, or nil if it is none.
func NewBars(ctx context.Context, w io.Writer) *Bars {
	if !IsTerminal(w) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return newBars(ctx, w)
}

func newBars(ctx context.Context, w io.Writer, opts ...mpb.ContainerOption) *Bars {
	opts = append([]mpb.ContainerOption{mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithWidth(40)}, opts...)
	return &Bars{mpb.NewWithContext(ctx, opts...)}
}

// Start draws a bar called what for total bytes (0: not known) and returns
// what counts the bytes written to it. Close completes the bar.
func (b *Bars) Start(what string, total int64) io.WriteCloser {
	what = Escape(what)
	if total <= 0 {
		return b.add(0, mpb.SpinnerStyle(),
			mpb.PrependDecorators(decor.Name(Ellipsis(what, 40), decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return " " + Size(s.Current) })))
	}
	began := time.Now()
	return b.add(total, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.PrependDecorators(decor.Name(Ellipsis(what, 40), decor.WCSyncSpaceR)),
		mpb.AppendDecorators(
			decor.Any(func(s decor.Statistics) string { return Size(s.Current) + "/" + Size(s.Total) }, decor.WCSyncSpace),
			decor.OnComplete(decor.Any(func(s decor.Statistics) string { return speed(s.Current, time.Since(began)) }), ""),
		))
}

// add draws a bar, unless drawing has ended.
func (b *Bars) add(total int64, style mpb.BarFillerBuilder, opts ...mpb.BarOption) io.WriteCloser {
	one, err := b.p.Add(total, style.Build(), opts...)
	if err != nil {
		return ended{}
	}
	return &bar{bar: one}
}

// ended is a bar that nobody sees.
type ended struct{}

func (ended) Write(p []byte) (int, error) { return len(p), nil }
func (ended) Close() error                { return nil }

// speed returns n bytes in d as a rate, with a space before it: " 12.5MB/s".
func speed(n int64, d time.Duration) string {
	if d < time.Millisecond {
		return ""
	}
	return " " + Size(int64(float64(n)/d.Seconds())) + "/s"
}

// Wait ends the drawing. Bars that are not complete are left as they stand.
func (b *Bars) Wait() {
	if b != nil {
		b.p.Shutdown()
	}
}

// Write prints a line above the bars.
func (b *Bars) Write(line []byte) (int, error) { return b.p.Write(line) }

type bar struct {
	once sync.Once
	bar  *mpb.Bar
}

func (b *bar) Write(p []byte) (int, error) {
	b.bar.IncrBy(len(p))
	return len(p), nil
}

func (b *bar) Close() error {
	b.once.Do(func() { b.bar.SetTotal(-1, true) })
	return nil
}
