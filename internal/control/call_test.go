// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCallStreams(t *testing.T) {
	dir := register(t)
	publish(t, dir, &fakeMount{info: Info{Dir: "/a"}, err: &os.PathError{Op: "read", Path: "/x", Err: syscall.EIO}})
	e := List(t.Context(), []string{dir})[0]
	arg, err := json.Marshal(strings.Repeat("x", 3000))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	name := strings.Repeat("n", 200)
	if err := e.Call(t.Context(), &Call{Name: name, Arg: arg}, &got); !errors.Is(err, syscall.EIO) || err.Error() != "read /x: input/output error" {
		t.Errorf("the server's error: %v", err)
	}
	if want := bytes.Repeat(arg, len(name)); !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got %d bytes, want %d", got.Len(), len(want))
	}
}

func TestCallEndsWithItsClient(t *testing.T) {
	dir := register(t)
	publish(t, dir, &fakeMount{info: Info{Dir: "/a"}})
	e := List(t.Context(), []string{dir})[0]
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := e.Call(ctx, &Call{Name: "wait"}, &bytes.Buffer{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a call that was given up: %v", err)
	}
}
