// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// apply makes changes, one a line that begins with no blank, in the config
// {"config": start} and returns what config is then, or the error.
func apply(start string, changes ...string) (string, error) {
	c, err := ParseConfig([]byte(`{"os":"linux","config":` + start + `}`))
	if err != nil {
		return "", err
	}
	for _, s := range changes {
		change, err := ParseChange(s)
		if err != nil {
			return "", err
		}
		if err := change.Apply(c); err != nil {
			return "", err
		}
	}
	raw, err := marshal(c.Config)
	return string(raw), err
}

func TestChange(t *testing.T) {
	tests := []struct{ name, start, changes, want string }{
		// CMD and ENTRYPOINT.
		{"exec form", `{}`, `CMD ["a", "b c"]`, `{"Cmd":["a","b c"]}`},
		{"shell form keeps quotes and blanks", `{}`, `CMD echo  "a  b"  `, `{"Cmd":["/bin/sh","-c","echo  \"a  b\""]}`},
		{"shell form takes the image's shell", `{"Shell":["/bin/bash","-ec"]}`, `CMD a b`, `{"Cmd":["/bin/bash","-ec","a b"],"Shell":["/bin/bash","-ec"]}`},
		{"what is no JSON is for the shell", `{}`, `CMD ['a']`, `{"Cmd":["/bin/sh","-c","['a']"]}`},
		{"variables in a command are the container's", `{"Env":["A=1"]}`, `CMD ["$A"]`, `{"Env":["A=1"],"Cmd":["$A"]}`},
		{"an empty list takes the command away", `{"Cmd":["a"]}`, `CMD []`, `{}`},
		{"an instruction in any case", `{}`, `cMd ["a"]`, `{"Cmd":["a"]}`},
		{"an entrypoint takes the old command away", `{"Cmd":["old"]}`, `ENTRYPOINT ["e"]`, `{"Entrypoint":["e"]}`},
		{"an entrypoint leaves a command that was set before it", `{"Cmd":["old"]}`, "CMD [\"new\"]|ENTRYPOINT [\"e\"]", `{"Entrypoint":["e"],"Cmd":["new"]}`},
		{"a command after an entrypoint", `{"Cmd":["old"]}`, "ENTRYPOINT [\"e\"]|CMD [\"new\"]", `{"Entrypoint":["e"],"Cmd":["new"]}`},
		{"an empty entrypoint", `{"Entrypoint":["e"],"Cmd":["a"]}`, `ENTRYPOINT []`, `{}`},
		{"an entrypoint for the shell", `{}`, `ENTRYPOINT exec top -b`, `{"Entrypoint":["/bin/sh","-c","exec top -b"]}`},

		// ENV.
		{"new variables come last, in their order", `{"Env":["Z=0"]}`, `ENV b=1 a=2`, `{"Env":["Z=0","b=1","a=2"]}`},
		{"a variable is replaced where it stands", `{"Env":["A=1","B=2"]}`, `ENV A=3`, `{"Env":["A=3","B=2"]}`},
		{"quotes", `{}`, `ENV a="v 2" b='v  3' c="d"'e' f=`, `{"Env":["a=v 2","b=v  3","c=de","f="]}`},
		{"escapes", `{}`, `ENV a=v\ 2 b=\"q\" c="x\"y\z" d='\n'`, `{"Env":["a=v 2","b=\"q\"","c=x\"y\\z","d=\\n"]}`},
		{"the old form", `{}`, `ENV k  v and  more`, `{"Env":["k=v and  more"]}`},
		{"the old form with quotes", `{}`, `ENV k "v  v" x`, `{"Env":["k=v  v x"]}`},
		{"the old form with =", `{}`, `ENV k a=b c=d`, `{"Env":["k=a=b c=d"]}`},
		{"variables", `{"Env":["PATH=/bin"]}`, `ENV PATH=/opt/bin:$PATH X=${PATH}x Y='$PATH' Z=\$PATH`, `{"Env":["PATH=/opt/bin:/bin","X=/binx","Y=$PATH","Z=$PATH"]}`},
		{"one instruction sees the environment before it", `{"Env":["a=1"]}`, `ENV a=2 b=$a|ENV c=$a`, `{"Env":["a=2","b=1","c=2"]}`},
		{"names are expanded too", `{"Env":["N=name"]}`, `ENV $N=v`, `{"Env":["N=name","name=v"]}`},
		{"of a name twice one is left", `{"Env":["A=1","B=2","A=3"]}`, `ENV A=4`, `{"Env":["A=4","B=2"]}`},

		// LABEL.
		{"labels", `{"Labels":{"a":"0","b":"1"}}`, `LABEL a=x "com.example.v"="1 2" c='it is'`, `{"Labels":{"a":"x","b":"1","c":"it is","com.example.v":"1 2"}}`},
		{"the old form of a label", `{}`, `LABEL description This is it`, `{"Labels":{"description":"This is it"}}`},
		{"a label over two lines", `{}`, "LABEL a=\"x\" \\\n  b=y", `{"Labels":{"a":"x","b":"y"}}`},

		// EXPOSE.
		{"ports", `{}`, `EXPOSE 80 53/udp 9/SCTP`, `{"ExposedPorts":{"53/udp":{},"80/tcp":{},"9/sctp":{}}}`},
		{"a range", `{"ExposedPorts":{"1/tcp":{}}}`, `EXPOSE 8000-8002/tcp`, `{"ExposedPorts":{"1/tcp":{},"8000/tcp":{},"8001/tcp":{},"8002/tcp":{}}}`},
		{"a variable of several ports", `{"Env":["P=80 443"]}`, `EXPOSE $P`, `{"ExposedPorts":{"443/tcp":{},"80/tcp":{}},"Env":["P=80 443"]}`},
		{"the host's port means nothing", `{}`, `EXPOSE 8080:80 127.0.0.1:1:81 [::1]:2:82 127.0.0.1::83/udp`, `{"ExposedPorts":{"80/tcp":{},"81/tcp":{},"82/tcp":{},"83/udp":{}}}`},

		// HEALTHCHECK.
		{"no check", `{"Healthcheck":{"Test":["CMD","a"],"Retries":3}}`, `HEALTHCHECK none`, `{"Healthcheck":{"Test":["NONE"]}}`},
		{"a check by the shell", `{}`, `HEALTHCHECK --interval=5m --timeout=3s CMD curl -f http://localhost/ || exit 1`,
			`{"Healthcheck":{"Test":["CMD-SHELL","curl -f http://localhost/ || exit 1"],"Interval":300000000000,"Timeout":3000000000}}`},
		{"a check by words, all flags", `{}`, `HEALTHCHECK --start-period=1ms --start-interval=2s --retries=4 --timeout=0s CMD ["a","b"]`,
			`{"Healthcheck":{"Test":["CMD","a","b"],"StartPeriod":1000000,"StartInterval":2000000000,"Retries":4}}`},
		{"a flag with a blank before its value", `{}`, `HEALTHCHECK --interval 5s CMD x`, `{"Healthcheck":{"Test":["CMD-SHELL","x"],"Interval":5000000000}}`},
		{"what a new check leaves open stays", `{"Healthcheck":{"Test":["CMD","a"],"Interval":1000000,"Retries":3}}`, `HEALTHCHECK --retries=5 CMD b`,
			`{"Healthcheck":{"Test":["CMD-SHELL","b"],"Interval":1000000,"Retries":5}}`},

		// The others.
		{"triggers are kept as written", `{"OnBuild":["RUN a"]}`, "ONBUILD  run  echo $A|ONBUILD COPY . /src", `{"OnBuild":["RUN a","run  echo $A","COPY . /src"]}`},
		{"signals", `{}`, `STOPSIGNAL SIGRTMIN+3`, `{"StopSignal":"SIGRTMIN+3"}`},
		{"a signal by number, from a variable", `{"Env":["S=9"]}`, `STOPSIGNAL $S`, `{"Env":["S=9"],"StopSignal":"9"}`},
		{"user", `{"User":"a"}`, `USER 1000:staff`, `{"User":"1000:staff"}`},
		{"volumes", `{"Volumes":{"/a":{}}}`, `VOLUME /b /c|VOLUME ["/d e"]`, `{"Volumes":{"/a":{},"/b":{},"/c":{},"/d e":{}}}`},
		{"working directory", `{}`, `WORKDIR /a/../b/`, `{"WorkingDir":"/b"}`},
		{"a relative directory", `{"WorkingDir":"/a"}`, `WORKDIR b|WORKDIR ../c`, `{"WorkingDir":"/a/c"}`},
		{"a relative directory below none", `{}`, `WORKDIR b c`, `{"WorkingDir":"/b c"}`},
		{"a directory cannot leave the root", `{}`, `WORKDIR ../../x`, `{"WorkingDir":"/x"}`},
		{"a directory with a variable and quotes", `{"Env":["H=/home"]}`, `WORKDIR "$H/a b"`, `{"Env":["H=/home"],"WorkingDir":"/home/a b"}`},

		// Lines.
		{"several lines, comments and continuations", `{}`, "# why\n  USER a\n\nENV x=1 \\\n# in between\n y=2\r\nWORKDIR /w", `{"User":"a","Env":["x=1","y=2"],"WorkingDir":"/w"}`},
		{"flags may be ended", `{}`, `CMD -- --x`, `{"Cmd":["/bin/sh","-c","--x"]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := apply(tt.start, strings.Split(tt.changes, "|")...)
			if strings.Contains(tt.changes, "||") {
				got, err = apply(tt.start, tt.changes)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("%s\n got %s\nwant %s", tt.changes, got, tt.want)
			}
		})
	}
}

func TestChangeErrors(t *testing.T) {
	tests := []struct{ change, want string }{
		{``, "it is empty"},
		{"# only\n", "it is empty"},
		{"RUN ls", "RUN makes no sense in a commit: want one of CMD, ENTRYPOINT, ENV"},
		{"FROM x", "FROM makes no sense in a commit"},
		{"CMD=/bin/sh", `no instruction "CMD=/BIN/SH": want one of CMD`},
		{"CMD", `CMD needs an argument: CMD ["program"`},
		{"WORKDIR  ", "WORKDIR needs an argument"},
		{"CMD [1]", "strings only"},
		{"ENTRYPOINT --x=1 a", "ENTRYPOINT has no flag --x"},
		{"USER --x", "--x has no value"},
		{"ENV a", "want ENV name=value"},
		{"ENV a=b c", `"c" has no =`},
		{"ENV =b", "has no name"},
		{"ENV $X=b", "no name"},
		{`ENV a="b`, "double quote is not closed"},
		{`ENV a='b`, "single quote is not closed"},
		{"ENV a=${b", "is not closed"},
		{"ENV a=${}", "bad substitution"},
		{"ENV a=${b=c}", "no such modifier"},
		{"ENV a=${b:c}", "no such modifier"},
		{"ENV a=${b:?it is needed}", `has no =`},
		{`ENV a="${b:?it is needed}"`, "b: it is needed"},
		{"LABEL a", "want LABEL name=value"},
		{"EXPOSE 65536", "ports 0 to 65535"},
		{"EXPOSE x", "ports 0 to 65535"},
		{"EXPOSE 80/icmp", `protocol "icmp"`},
		{"EXPOSE 9-8", "ends before it begins"},
		{"EXPOSE a:80", "ports 0 to 65535"},
		{"EXPOSE 1.2.3:1:80", "no IP address"},
		{"EXPOSE $NONE", "no port"},
		{"HEALTHCHECK NONE x", "takes nothing else"},
		{"HEALTHCHECK curl", "want CMD or NONE"},
		{"HEALTHCHECK CMD", "has no command"},
		{"HEALTHCHECK CMD []", "has no command"},
		{"HEALTHCHECK --interval=1 CMD x", "is no time"},
		{"HEALTHCHECK --interval=-1s CMD x", "less than 1ms"},
		{"HEALTHCHECK --timeout=1us CMD x", "less than 1ms"},
		{"HEALTHCHECK --retries=-1 CMD x", "no number"},
		{"HEALTHCHECK --retries=1 --retries=2 CMD x", "twice"},
		{"HEALTHCHECK --foo=1 CMD x", "no flag --foo"},
		{"ONBUILD ONBUILD RUN x", "ONBUILD ONBUILD is not allowed"},
		{"ONBUILD from x", "ONBUILD FROM is not allowed"},
		{"ONBUILD sing", `no instruction "SING"`},
		{"ONBUILD RUN", "needs an argument"},
		{"STOPSIGNAL SIGX", `no signal "SIGX"`},
		{"STOPSIGNAL 0", "no signal"},
		{"STOPSIGNAL 65", "no signal"},
		{"STOPSIGNAL RTMIN+16", "no signal"},
		{"VOLUME []", "list is empty"},
		{`VOLUME [""]`, "is empty"},
		{"WORKDIR $NONE", "is empty"},
		{"USER a\x00b", "NUL"},
		{"USER \xff", "UTF-8"},
		{"USER " + strings.Repeat("x", maxChange), "limit is 65536"},
		{"USER a\nRUN b", "RUN makes no sense"},
	}
	for _, tt := range tests {
		_, err := apply(`{}`, tt.change)
		var e *ChangeError
		if !errors.As(err, &e) || e.Change != tt.change || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.100q: got %.300v, want … %s …", tt.change, err, tt.want)
		}
	}
}

func TestApplyLeavesAlone(t *testing.T) {
	c := &Config{Config: RunConfig{Env: []string{"A=1"}, Labels: map[string]string{"a": "1"}}}
	env, labels := c.Config.Env, c.Config.Labels
	change, err := ParseChange("ENV A=2\nLABEL a=2\nUSER ${X?no}")
	if err != nil {
		t.Fatal(err)
	}
	if err := change.Apply(c); err == nil || c.Config.Env[0] != "A=1" || c.Config.Labels["a"] != "1" {
		t.Errorf("after an error %v: %v, %v", err, c.Config.Env, c.Config.Labels)
	}
	if change, err = ParseChange("ENV A=2\nLABEL a=2"); err != nil {
		t.Fatal(err)
	}
	if err := change.Apply(c); err != nil || env[0] != "A=1" || labels["a"] != "1" {
		t.Errorf("%v; the values before are now %v, %v", err, env, labels)
	}
}

// What a shell makes of these, docker does, and so do we.
func TestExpand(t *testing.T) {
	env := environ([]string{"PWD=/home", "EMPTY=", "V=xx.yy.zz", "P=*.", "KO=한국", "NUMBER=1", "PWD=/home"})
	tests := []struct{ word, want string }{
		{`hello`, `hello`}, {`he'll'o`, `hello`}, {`he\'llo`, `he'llo`}, {`abc\tdef`, `abctdef`},
		{`"abc\tdef"`, `abc\tdef`}, {`"abc\\tdef"`, `abc\tdef`}, {`'abc\tdef'`, `abc\tdef`},
		{`hello\`, `hello`}, {`hello\\`, `hello\`}, {`"hel'lo"`, `hel'lo`}, {`'hello\'`, `hello\`}, {`"''"`, `''`},
		{`$.`, `$.`}, {`$`, `$`}, {`he$1x`, `hex`}, {`he$1 x`, `he x`}, {`$$PWD`, `PWD`}, {`he$PWD.`, `he/home.`}, {`he\\$PWD`, `he\/home`},
		{`\${}`, `${}`}, {`${PWD}x`, `/homex`}, {`${NONE}x`, `x`}, {`'${PWD}'`, `${PWD}`}, {`"'$PWD'"`, `'/home'`},
		{`${NONE:-000}x`, `000x`}, {`${PWD:-000}`, `/home`}, {`${EMPTY:-e}${EMPTY-e}`, `e`},
		{`${NONE:-${PWD:-y}}`, `/home`}, {`${NONE:-\$PWD:}`, `$PWD:`}, {`${NONE:-\${PWD}z}`, `${PWDz}`},
		{`${PWD:+a}${NONE:+b}${EMPTY:+c}${EMPTY+d}`, `ad`}, {`${PWD:?no}`, `/home`}, {`${EMPTY?no}`, ``},
		{`${aaa}}`, `}`}, {`${aaa:-b {foo}`, `b {foo`}, {`$KO한`, ``}, {`${KO}한`, `한국한`},
		{`${V#*.}`, `yy.zz`}, {`${V##*.}`, `zz`}, {`${V%.*}`, `xx.yy`}, {`${V%%.*}`, `xx`}, {`${V#x}`, `x.yy.zz`},
		{`${V#$P}`, `yy.zz`}, {`${V#}`, `xx.yy.zz`}, {`${V%q}`, `xx.yy.zz`}, {`${V#??}`, `.yy.zz`}, {`${V#\?}`, `xx.yy.zz`},
		{`${V/./-}`, `xx-yy.zz`}, {`${V//./-}`, `xx-yy-zz`}, {`${V/.*./-}`, `xx-zz`}, {`${PWD//\//_}`, `_home`}, {`${V//y/$PWD}`, `xx./home/home.zz`},
		{`${V//q/}`, `xx.yy.zz`}, {`${V/xx/$1}`, `.yy.zz`},
	}
	for _, tt := range tests {
		got, err := expand(tt.word, env)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.word, got, err, tt.want)
		}
	}
	for _, bad := range []string{
		`he'llo`, `"hello`, `"hello\"`, `'hello`, `${}`, `he${.}`, `${PWD`, `${`, `${PWD:YYY}`, `${PWD:=000}`, `${{a}`, `${:-b}`,
		`${aaa:-bbb`, `${aaa:-bbb ${foo}`, `${V/x}`, `${V//`, `${V#x`, `${V#\\\}`, `${V@}`, `${NONE?}`, `${EMPTY:?}`,
	} {
		if got, err := expand(bad, env); err == nil {
			t.Errorf("%s: got %q, want an error", bad, got)
		}
	}
}

func TestExpandWords(t *testing.T) {
	env := environ([]string{"P=80 443", "E="})
	tests := []struct{ word, want string }{
		{"a b", "a|b"}, {"$P", "80|443"}, {`"$P"`, "80 443"}, {"x$P/tcp", "x80|443/tcp"}, {`a\ b c`, "a b|c"},
		{"$E", ""}, {`$E "" x`, "x"}, {"  a  ", "a"},
	}
	for _, tt := range tests {
		got, err := expandWords(tt.word, env)
		if err != nil || strings.Join(got, "|") != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.word, got, err, tt.want)
		}
	}
}

// A word does not grow without end, however often a long variable is in it.
func TestExpandLimit(t *testing.T) {
	env := environ([]string{"A=" + strings.Repeat("x", 600<<10)})
	for _, word := range []string{"$A$A", `"$A$A"`, "${B:-$A$A}", "${A//x/xx}", "${A//x/$A}"} {
		if got, err := expand(word, env); err == nil || !strings.Contains(err.Error(), "over 1048576 bytes") {
			t.Errorf("%s: got %d bytes, %v", word, len(got), err)
		}
	}
}

func FuzzChange(f *testing.F) {
	for _, s := range []string{
		`CMD ["a"]`, `ENV a="b" c=${d:-e}`, "ENV k v", `HEALTHCHECK --interval=5s CMD x`, "EXPOSE 1-3/udp $P", "ONBUILD RUN x",
		"LABEL \"a b\"=c \\\n d=e", "VOLUME /a /b", `WORKDIR ${A%%/*}`, "STOPSIGNAL 9", "USER ${A/b/c}", "ENTRYPOINT x",
	} {
		f.Add(s)
	}
	old := []byte(`{"config":{"Env":["A=/b/c","P=80 443"],"WorkingDir":"/w"},"rootfs":{"diff_ids":[]},"x":{"y":[1.50]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		change, err := ParseChange(s)
		if err != nil {
			return
		}
		if !utf8.ValidString(s) {
			t.Fatal("not UTF-8")
		}
		raw, err := Commit(old, CommitOptions{DiffID: diffA, Changes: []Change{change}})
		if err != nil {
			return
		}
		c, err := ParseConfig(raw)
		if err != nil {
			t.Fatal(err)
		}
		before, err := ParseConfig(old)
		if err != nil {
			t.Fatal(err)
		}
		if err := change.Apply(before); err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(c.Config)
		want, _ := json.Marshal(before.Config)
		if string(got) != string(want) {
			t.Errorf("%q\n got %s\nwant %s", s, got, want)
		}
	})
}

const zeros = "00000000000000000000000000000000000000000000000000000000000000"
