// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

// Retries of one request.
const (
	maxRetries  = 5
	firstWait   = 250 * time.Millisecond // doubled each time
	longestWait = 2 * time.Minute        // that a registry may ask for
)

type noRetries struct{}

// withoutRetries has each request tried once: there is somebody else to ask.
func withoutRetries(ctx context.Context) context.Context {
	return context.WithValue(ctx, noRetries{}, true)
}

// retrying is a transport that tries again what may pass.
type retrying struct {
	base  http.RoundTripper
	first time.Duration // before the second try; then it doubles
	log   func(format string, args ...any)
}

func (r *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Context().Value(noRetries{}) != nil {
		return r.base.RoundTrip(req)
	}
	t := retry.Transport{Base: r.base, Policy: func() retry.Policy { return policy{r, req} }}
	return t.RoundTrip(req)
}

// policy is oras-go's retry.Policy for one request.
type policy struct {
	*retrying
	req *http.Request
}

// Retry returns how long to wait, or a negative duration to let it be.
func (p policy) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	cannot := p.req.Body != nil && p.req.Body != http.NoBody && p.req.GetBody == nil
	if attempt >= maxRetries || cannot || p.req.Context().Err() != nil {
		return -1, nil
	}
	wait := backoff(p.first, attempt)
	why := ""
	switch {
	case err != nil && (!temporary(err) || isDial(err) && attempt > 0):
		return -1, nil
	case err != nil:
		why = scrub(withoutURL(err).Error())
	case !retryable(resp.StatusCode):
		return -1, nil
	default:
		why = "HTTP " + strconv.Itoa(resp.StatusCode)
		if asked, ok := retryAfter(resp.Header, time.Now()); ok {
			wait = max(wait, asked)
		}
	}
	if wait > longestWait {
		return -1, nil // the answer is the error
	}
	p.log("%s: %s: trying again in %v", p.req.URL.Host, why, wait.Round(10*time.Millisecond))
	return wait, nil
}

// backoff returns how long to wait after so many retries.
func backoff(first time.Duration, retries int) time.Duration {
	d := first << min(retries, 5)
	return d - d/8 + rand.N(d/4+1)
}

// retryable reports whether an answer with this status may be another one
// later.
func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// temporary reports whether an error of a connection may pass.
func temporary(err error) bool {
	var timeout net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return true
	}
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed, errSilent} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// isDial reports whether err is about a connection that never stood: without
// a network it is not worth to wait for long.
func isDial(err error) bool {
	var (
		dns *net.DNSError
		op  *net.OpError
	)
	return errors.As(err, &dns) || errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect")
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now)), true
	}
	return 0, false
}
