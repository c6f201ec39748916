// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/imgfs/imgfs/image"
)

// What callers branch on.
var (
	// ErrUnauthorized marks credentials that are missing or wrong.
	ErrUnauthorized = errors.New("authentication required")

	// ErrDenied marks what these credentials, or none, may not do.
	ErrDenied = errors.New("access denied")

	// ErrNotFound marks what the registry does not have. Such an error is an
	// image.ErrNotFound, too.
	ErrNotFound = errors.New("not found")

	// ErrOffline marks a registry that could not be reached.
	ErrOffline = errors.New("cannot reach the registry")

	// ErrNotTLS marks a server that speaks plain HTTP and that nobody named as
	// insecure.
	ErrNotTLS = errors.New("the server speaks plain HTTP, not TLS")

	// ErrCertificate marks a server whose certificate nobody here vouches for.
	ErrCertificate = errors.New("the server's certificate is not trusted")
)

// Bounds of a registry's own words.
const (
	maxErrorBody = 8 << 10 // bytes that are read
	maxMessage   = 200     // bytes that are shown
)

// An Error says what a registry refused or failed to do. Its text holds no
// secret and no query string.
type Error struct {
	Host       string // docker.io, or the mirror that was asked
	Repository string // empty if none was asked for
	What       string // "manifest latest", "blob sha256:…"; may be empty
	Status     int    // of HTTP; 0: there was no answer
	Message    string // the registry's own words, bounded
	Err        error  // one of the sentinels above, or the cause; never nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Host)
	if e.Repository != "" {
		b.WriteString("/" + e.Repository)
	}
	if e.What != "" {
		b.WriteString(": " + e.What)
	}
	b.WriteString(": " + scrub(e.Err.Error()))
	if e.Message != "" && e.Message != e.Err.Error() {
		b.WriteString(": " + scrub(e.Message))
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes what a registry does not have an image.ErrNotFound.
func (e *Error) Is(target error) bool {
	return target == image.ErrNotFound && errors.Is(e.Err, ErrNotFound)
}

// newError makes an Error of err, which came from an attempt at what in a
// repository of host. The end of ctx stays what it is.
func newError(host, repository, what string, err error) error {
	if err == nil {
		return nil
	}
	var have *Error
	if errors.As(err, &have) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", host, withoutURL(err))
	}
	e := &Error{Host: host, Repository: repository, What: what, Err: withoutURL(err)}
	var answer *errcode.ErrorResponse
	switch {
	case errors.As(err, &answer):
		e.setStatus(answer.StatusCode, words(answer.Errors))
	case errors.Is(err, errdef.ErrNotFound):
		e.Status, e.Err = http.StatusNotFound, ErrNotFound
	default:
		e.Err = classify(e.Err)
	}
	return e
}

// setStatus takes over an answer that is an error.
func (e *Error) setStatus(status int, message string) {
	e.Status, e.Message = status, message
	switch status {
	case http.StatusUnauthorized:
		e.Err = ErrUnauthorized
	case http.StatusForbidden:
		e.Err = ErrDenied
	case http.StatusNotFound:
		e.Err = ErrNotFound
	default:
		text := http.StatusText(status)
		if text == "" {
			text = "unexpected answer"
		}
		e.Err = fmt.Errorf("%s (HTTP %d)", strings.ToLower(text), status)
	}
}

// answerError makes an error of an answer that is not the one hoped for. It
// reads some of its body.
func answerError(resp *http.Response) error {
	answer := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)); err == nil && json.Unmarshal(raw, &body) == nil {
		answer.Errors = body.Errors
	}
	return answer
}

// words returns what a registry says about an error, bounded.
func words(list errcode.Errors) string {
	var parts []string
	for _, e := range list {
		part := strings.ToLower(strings.ReplaceAll(e.Code, "_", " "))
		if e.Message != "" {
			part = e.Message
		}
		if part != "" {
			parts = append(parts, part)
		}
		if len(parts) == 3 {
			break
		}
	}
	return bounded(strings.Join(parts, "; "))
}

// bounded makes a stranger's words a short line.
func bounded(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return ' '
	}, s[:min(len(s), maxErrorBody)])
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// classify gives errors of the network their sentinel.
func classify(err error) error {
	var (
		dns     *net.DNSError
		invalid *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return ErrNotTLS
	case errors.As(err, &invalid):
		return fmt.Errorf("%w: %w", ErrCertificate, invalid.Err)
	case errors.As(err, &dns):
		return fmt.Errorf("%w: %s: %s", ErrOffline, dns.Name, dns.Err)
	case isDial(err):
		return fmt.Errorf("%w: %w", ErrOffline, err)
	}
	return err
}

// withoutURL takes off the layers of err that spell a URL, which may hold a
// signature in its query.
func withoutURL(err error) error {
	for {
		var u *url.Error
		if !errors.As(err, &u) {
			return err
		}
		err = u.Err
	}
}

var urlSecrets = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^\s/"'@?#]*@)?([^\s"'?#]*)(?:[?#][^\s"']*)?`)

// scrub takes user information and queries out of the URLs in a text.
func scrub(text string) string { return urlSecrets.ReplaceAllString(text, "$1$2") }
