// SPDX-License-Identifier: Apache-2.0

package regtest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A TokenServer gives tokens as docker's protocol has it, signed so that a
// docker-registry takes them. User may do all, and so may who shows Identity;
// without either one may read what lies below "public/".
type TokenServer struct {
	URL     string
	Service string
	Issuer  string

	Asked atomic.Int64 // tokens asked for

	certs string // file of the certificate
	cert  []byte // DER
	key   *rsa.PrivateKey
}

// StartTokenServer starts a token server that runs until its test ends.
func StartTokenServer(t testing.TB) *TokenServer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "regtest tokens"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s := &TokenServer{Service: "regtest", Issuer: "regtest issuer", cert: der, key: key}
	s.certs = filepath.Join(t.TempDir(), "tokens.crt")
	write(t, s.certs, string(block("CERTIFICATE", der)))
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.URL = srv.URL + "/token"
	return s
}

// ServeHTTP gives a token for the scopes that are asked for, as far as who
// asks may have them.
func (s *TokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Asked.Add(1)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	user, password, basic := r.BasicAuth()
	known := basic && user == User && password == Password
	refresh := r.Method == http.MethodPost
	if refresh {
		known = r.PostForm.Get("grant_type") == "refresh_token" && r.PostForm.Get("refresh_token") == Identity
	}
	if (basic || refresh) && !known {
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": "UNAUTHORIZED", "message": "incorrect username or password"}}})
		return
	}
	var scopes []string
	for _, v := range r.Form["scope"] {
		scopes = append(scopes, strings.Fields(v)...)
	}
	json.NewEncoder(w).Encode(map[string]any{"token": s.Token(scopes, known), "expires_in": 3600})
}

type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// Token returns a token for scopes, as a JWT signed by RS256.
func (s *TokenServer) Token(scopes []string, known bool) string {
	granted := []access{}
	for _, scope := range scopes {
		parts := strings.SplitN(scope, ":", 3)
		if len(parts) != 3 {
			continue
		}
		a := access{parts[0], parts[1], strings.Split(parts[2], ",")}
		switch {
		case known:
		case a.Type == "repository" && strings.HasPrefix(a.Name, "public/"):
			a.Actions = []string{"pull"}
		default:
			continue
		}
		granted = append(granted, a)
	}
	now := time.Now()
	head := encode(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{base64.StdEncoding.EncodeToString(s.cert)}})
	body := encode(map[string]any{
		"iss": s.Issuer, "aud": s.Service, "sub": User, "access": granted, "jti": "1",
		"iat": now.Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	sum := sha256.Sum256([]byte(head + "." + body))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	if err != nil {
		panic("regtest: internal error: " + err.Error())
	}
	return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("regtest: internal error: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}
