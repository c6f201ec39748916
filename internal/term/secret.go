// SPDX-License-Identifier: Apache-2.0

package term

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// ReadSecret writes prompt to out and returns a line that is typed at in, a
// terminal, and not shown.
func ReadSecret(in io.Reader, out io.Writer, prompt string) (string, error) {
	f, ok := in.(*os.File)
	if !ok || !IsTerminal(in) {
		return "", fmt.Errorf("no terminal to type at")
	}
	fmt.Fprint(out, prompt)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(out)
	return string(b), err
}
