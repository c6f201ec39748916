// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxToken bounds the answer of a token server.
const maxToken = 128 << 10 // bytes

// An authorizer sends requests, and answers a registry that wants to know who
// asks: with the user and the secret ("Basic"), or with a token that it
// fetches from the server the registry names ("Bearer"), as docker's token
// protocol has it. The scopes of a token are those that oras-go's functions
// leave in the request's context.
type authorizer struct {
	http   *http.Client
	creds  Credentials
	flight singleflight.Group

	mu     sync.Mutex
	header map[grant]string // Authorization that was accepted; guarded by mu
}

// A grant is what one Authorization is for.
type grant struct{ origin, scopes string }

func newAuthorizer(client *http.Client, creds Credentials) *authorizer {
	return &authorizer{http: client, creds: creds, header: make(map[grant]string)}
}

// Do sends req, and once more with an Authorization if the registry asks for
// one. Its answer may still be 401.
func (a *authorizer) Do(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Authorization") != "" { // oras-go hands on that of the request before
		return a.http.Do(req)
	}
	g := grant{origin(req.URL), strings.Join(auth.GetAllScopesForHost(req.Context(), req.URL.Host), " ")}
	a.mu.Lock()
	used := a.header[g]
	a.mu.Unlock()
	resp, err := a.http.Do(with(req, used))
	if err != nil || resp.StatusCode != http.StatusUnauthorized || origin(resp.Request.URL) != g.origin {
		return resp, err
	}
	header, err := a.authorize(req, g, used, resp.Header.Values("Www-Authenticate"))
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	if header == "" {
		return resp, nil
	}
	again := with(req, header)
	if req.Body != nil && req.Body != http.NoBody {
		if req.GetBody == nil {
			return resp, nil
		}
		if again.Body, err = req.GetBody(); err != nil {
			resp.Body.Close()
			return nil, err
		}
	}
	resp.Body.Close()
	return a.http.Do(again)
}

func with(req *http.Request, header string) *http.Request {
	req = req.Clone(req.Context())
	if header != "" {
		req.Header.Set("Authorization", header)
	}
	return req
}

// authorize returns the Authorization that the challenges ask for, or "" if
// there is nothing to say. Requests that are refused at the same time share
// one token.
func (a *authorizer) authorize(req *http.Request, g grant, used string, challenges []string) (string, error) {
	ctx := req.Context()
	ch := a.flight.DoChan(g.origin+" "+g.scopes, func() (any, error) {
		a.mu.Lock()
		now := a.header[g]
		a.mu.Unlock()
		if now != used {
			return now, nil // somebody else was faster
		}
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		header, err := a.answer(shared, req.URL, g.scopes, challenges)
		if err != nil {
			return "", err
		}
		a.mu.Lock()
		a.header[g] = header
		a.mu.Unlock()
		return header, nil
	})
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case r := <-ch:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	}
}

// answer makes an Authorization for the first challenge that it understands,
// a token before anything else.
func (a *authorizer) answer(ctx context.Context, asked *url.URL, scopes string, challenges []string) (string, error) {
	var basic bool
	for _, c := range parseChallenges(challenges) {
		switch c.scheme {
		case "bearer":
			token, err := a.token(ctx, asked, scopes, c.params)
			if err != nil {
				return "", err
			}
			return "Bearer " + token, nil
		case "basic":
			basic = true
		}
	}
	if !basic {
		return "", nil
	}
	user, secret, _, err := a.get(ctx, asked.Host)
	if err != nil || user == "" && secret == "" {
		return "", err
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret)), nil
}

func (a *authorizer) get(ctx context.Context, host string) (user, secret, token string, err error) {
	if a.creds == nil {
		return "", "", "", nil
	}
	if host == hubHost {
		host = "docker.io"
	}
	return a.creds.Get(ctx, host)
}

// hubHost is where docker.io answers.
const hubHost = "registry-1.docker.io"

// token fetches a token from the server that a challenge names.
func (a *authorizer) token(ctx context.Context, asked *url.URL, scopes string, params map[string]string) (string, error) {
	realm, err := url.Parse(params["realm"])
	switch {
	case err != nil || realm.Host == "" || realm.User != nil:
		return "", &Error{Host: asked.Host, What: "token server", Err: errors.New("its address is malformed")}
	case realm.Scheme != "https" && (realm.Scheme != "http" || asked.Scheme != "http"):
		return "", &Error{Host: asked.Host, What: "token server " + realm.Host, Err: errors.New("it is not reached by TLS")}
	}
	user, secret, identity, err := a.get(ctx, asked.Host)
	if err != nil {
		return "", err
	}
	all := auth.CleanScopes(append(strings.Fields(scopes), strings.Fields(params["scope"])...))
	var req *http.Request
	if identity != "" {
		req, err = refreshRequest(ctx, realm, params["service"], all, identity)
	} else {
		req, err = tokenRequest(ctx, realm, params["service"], all, user, secret)
	}
	if err != nil {
		return "", err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return "", newError(asked.Host, "", "token server "+realm.Host, err)
	}
	defer resp.Body.Close()
	return readToken(resp, asked.Host, identity != "" || user != "")
}

// tokenRequest asks as docker's token protocol has it,
// https://distribution.github.io/distribution/spec/auth/token/.
func tokenRequest(ctx context.Context, realm *url.URL, service string, scopes []string, user, secret string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return nil, err
	}
	q := req.URL.Query()
	if service != "" {
		q.Set("service", service)
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	req.URL.RawQuery = q.Encode()
	if user != "" || secret != "" {
		req.SetBasicAuth(user, secret)
	}
	return req, nil
}

// refreshRequest asks with an identity token,
// https://distribution.github.io/distribution/spec/auth/oauth/.
func refreshRequest(ctx context.Context, realm *url.URL, service string, scopes []string, identity string) (*http.Request, error) {
	form := url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {identity},
		"service": {service}, "client_id": {"imgfs"},
	}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req, nil
}

// readToken reads the answer of a token server.
func readToken(resp *http.Response, host string, known bool) (string, error) {
	what := "token server " + resp.Request.URL.Host
	switch {
	case resp.StatusCode == http.StatusUnauthorized || known && resp.StatusCode == http.StatusForbidden || known && resp.StatusCode == http.StatusBadRequest:
		e := &Error{Host: host, What: what, Status: http.StatusUnauthorized, Err: ErrUnauthorized}
		if known {
			e.Err = fmt.Errorf("%w: the user name or the password is wrong", ErrUnauthorized)
		}
		return "", e
	case resp.StatusCode != http.StatusOK:
		e := &Error{Host: host, What: what}
		e.setStatus(resp.StatusCode, "")
		return "", e
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxToken+1))
	if err != nil {
		return "", newError(host, "", what, err)
	}
	var t struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if len(raw) > maxToken || json.Unmarshal(raw, &t) != nil || !isToken(orElse(t.AccessToken, t.Token)) {
		return "", &Error{Host: host, What: what, Err: errors.New("its answer is no token")}
	}
	return orElse(t.AccessToken, t.Token), nil
}

// isToken reports whether s can stand in a header.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
