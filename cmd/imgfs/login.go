// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgfs/imgfs"
	"github.com/imgfs/imgfs/internal/term"
)

// maxSecret bounds what is read as a password.
const maxSecret = 64 << 10

// loginFlags are the flags of login.
type loginFlags struct {
	user, password string
	stdin          bool
}

func newLogin(a *app) *cobra.Command {
	var flags loginFlags
	c := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Log in to a registry",
		Long: `Login asks the registry SERVER, by default docker.io, whether a user and a
password are right, and keeps them where docker does: in the credential helper
that config.json names, else in config.json itself, which is in $DOCKER_CONFIG, by
default ~/.docker, or is the file $REGISTRY_AUTH_FILE. What docker login has
stored is used as it is.`,
		Example: `  imgfs login
  pass show registry | imgfs login -u me --password-stdin registry.example.com
  imgfs login localhost:5000`,
		Args: takes(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return a.login(ctx, c, strings.Join(args, ""), flags)
		},
	}
	c.Flags().StringVarP(&flags.user, "username", "u", "", "log in as `USER`")
	c.Flags().StringVarP(&flags.password, "password", "p", "", "use `PASSWORD`, which others on this machine may see in the list of processes")
	c.Flags().BoolVar(&flags.stdin, "password-stdin", false, "read the password from stdin")
	a.remoteFlags(c)
	return c
}

func (a *app) login(ctx context.Context, c *cobra.Command, server string, flags loginFlags) error {
	hasPassword := c.Flags().Changed("password")
	switch {
	case flags.stdin && hasPassword:
		return usagef("--password and --password-stdin are mutually exclusive")
	case flags.stdin && flags.user == "":
		return usagef("must provide --username with --password-stdin")
	case hasPassword && flags.password == "":
		return usagef("the password is empty")
	}
	st, err := a.store()
	if err != nil {
		return err
	}
	if hasPassword {
		fmt.Fprintln(a.stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if flags.user == "" && !hasPassword {
		known, err := st.KnownLogin(ctx, server)
		switch {
		case err == nil && known != "":
			fmt.Fprintln(a.stderr, "Authenticating with existing credentials...")
			fmt.Fprintln(a.stdout, "Login Succeeded")
			return nil
		case err != nil && (known == "" || !errors.Is(err, imgfs.ErrUnauthorized)):
			return err
		}
	}
	if err := a.askLogin(&flags, hasPassword); err != nil {
		return err
	}
	in, err := st.Login(ctx, server, flags.user, flags.password)
	if err != nil {
		return err
	}
	if in.Plain {
		fmt.Fprintf(a.stderr, "\nWARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper to remove this warning.\n\n", term.Escape(in.Path))
	}
	_, err = fmt.Fprintln(a.stdout, "Login Succeeded")
	return err
}

// askLogin asks for what the flags do not say.
func (a *app) askLogin(flags *loginFlags, hasPassword bool) (err error) {
	if flags.stdin {
		flags.password, err = readSecret(a.stdin)
		return err
	}
	if hasPassword && flags.user != "" {
		return nil
	}
	if !term.IsTerminal(a.stdin) {
		return &hintError{err: usagef("cannot perform an interactive login from a non TTY device"), hint: "-u USER --password-stdin reads the password from a pipe"}
	}
	if flags.user == "" {
		fmt.Fprint(a.stderr, "Username: ")
		line, err := bufio.NewReader(a.stdin).ReadString('\n')
		if flags.user = strings.TrimSpace(line); flags.user == "" {
			return errors.Join(err, usagef("username is empty"))
		}
	}
	if !hasPassword {
		flags.password, err = term.ReadSecret(a.stdin, a.stderr, "Password: ")
		if err == nil && flags.password == "" {
			err = usagef("password is empty")
		}
	}
	return err
}

// readSecret reads a password from a pipe; the newline at its end is not part
// of it.
func readSecret(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case secret == "":
		return "", usagef("the password is empty")
	case len(secret) > maxSecret:
		return "", usagef("a password of over %d bytes", maxSecret)
	}
	return secret, nil
}
