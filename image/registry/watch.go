// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// errSilent is the end of a connection on which nothing, or next to nothing,
// came.
var errSilent = errors.New("the server fell silent")

// watch sends req and gives the server up when it is silent for too long,
// before its answer and within it. The time that the reader of the answer
// takes does not count. A request with a body may take longer, see
// http.Transport.ResponseHeaderTimeout.
func watch(t http.RoundTripper, req *http.Request, silence time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	limit := silence
	if req.Body != nil && req.Body != http.NoBody {
		limit = 24 * time.Hour
	}
	timer := time.AfterFunc(limit, func() { cancel(errSilent) })
	resp, err := t.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		if context.Cause(ctx) == errSilent {
			err = errSilent
		}
		cancel(nil)
		return nil, err
	}
	timer = time.AfterFunc(silence, func() { cancel(errSilent) })
	timer.Stop()
	resp.Body = &watched{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, silence: silence, timer: timer}
	return resp, nil
}

// watched is the body of an answer.
type watched struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc

	silence time.Duration // that is borne
	timer   *time.Timer   // runs during a Read; cancels

	// What came in the time that was spent waiting for it.
	waited time.Duration
	got    int
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.silence)
	began := time.Now()
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	w.waited += time.Since(began)
	w.got += n
	if w.got >= trickle {
		w.waited, w.got = 0, 0
	}
	if err == nil && w.waited > w.silence || err != nil && context.Cause(w.ctx) == errSilent {
		w.cancel(errSilent)
		return n, errSilent
	}
	return n, err
}

func (w *watched) Close() error {
	err := w.ReadCloser.Close()
	w.cancel(nil)
	return err
}
