// SPDX-License-Identifier: Apache-2.0

package suite

// notSymlinkMakers are the types that mknod, mkdir and open make with a mode.
var withMode = []string{"file", "dir", "fifo", "block", "char", "socket"}

var createGroups = []group{
	{"create", []rule{
		{"the mode is the one asked for", `
			umask 0
			make $T a 755
			lstat a type,mode = $T,755
			make $T b 151
			lstat b mode = 151
			make $T c 000
			lstat c mode = 0
			umask 077
			make $T d 151
			lstat d mode = 100
			umask 070
			make $T e 345
			lstat e mode = 305
			umask 0501
			make $T g 345
			lstat g mode = 244`, withMode},
		{"a sticky bit and setuid bits are kept", `
			umask 0
			make $T a 7777
			lstat a mode = 7777`, []string{"file", "fifo", "block", "char", "socket"}},
		{"owner and group are the caller's", `
			chmod . 777
			as 65535 make $T a 644
			lstat a uid,gid = 65535,65535
			as 65535:65534 make $T b 644
			lstat b uid,gid = 65535,65534
			chmod . 755`, []string{"file", "dir", "fifo", "socket", "symlink"}},
		{"the group is the directory's where it has setgid", `
			mkdir d 755
			chown d 0 777
			chmod d 2777
			as 65535 make $T d/a 755
			lstat d/a uid,gid = 65535,777
			make $T d/b 755
			lstat d/b uid,gid = 0,777`, []string{"file", "dir", "fifo", "socket", "symlink"}},
		{"below a setgid directory directories have setgid, too", `
			umask 0
			mkdir d 755
			chown d 0 777
			chmod d 2777
			mkdir d/e 755
			lstat d/e mode,gid = 2755,777
			mkdir d/e/f 700
			lstat d/e/f mode,gid = 2700,777
			as 65535 mkdir d/g 755
			lstat d/g mode,uid,gid = 2755,65535,777
			create d/h 644
			lstat d/h mode = 644`, nil},
		{"setgid goes when a stranger to the group creates an executable", `
			umask 0
			mkdir d 755
			chown d 0 777
			chmod d 2777
			as 65535 open d/a wronly,creat,excl 2755
			lstat d/a mode,gid = 755,777
			as 65535:777 open d/b wronly,creat,excl 2755
			lstat d/b mode = 2755
			as 65535 open d/c wronly,creat,excl 2744
			lstat d/c mode = 2744|744
			open d/e wronly,creat,excl 2755
			lstat d/e mode = 2755`, nil},
		{"times of the new file and its directory move", `
			move .:mc | make $T a 644`, everyType},
		{"what exists stays, and no time moves", `
			make $T a 644
			move .:MC a:MC | make dir a 755 = EEXIST
			move .:MC a:MC | make fifo a = EEXIST
			move .:MC a:MC | make symlink a = EEXIST
			move .:MC a:MC | create a = EEXIST
			move .:MC a:MC | mkdir a/ 755 = EEXIST
			lstat a type = $T`, notDirs[:5]},
		{"nothing is created over a symlink that leads nowhere", `
			symlink nowhere a
			mkdir a 755 = EEXIST
			mkfifo a 644 = EEXIST
			symlink x a = EEXIST
			create a = EEXIST
			gone nowhere`, nil},
		{"open creates what a symlink names", `
			symlink b a
			open a wronly,creat 600
			lstat b type,mode = file,600
			lstat a type = symlink`, nil},
		{"names of 255 bytes", `
			make $T N255 644
			lstat N255 type = $T
			make $T N256 644 = ENAMETOOLONG`, everyType},
		{"paths of 4095 bytes", `
			mkdir d 755
			make $T d/a^4095 644
			lstat d/a type = $T
			make $T d/b^4096 644 = ENAMETOOLONG
			gone d/b`, everyType},
		{"nlink is 1", `
			make $T a 644
			lstat a nlink = 1`, notDirs},
		{"directories count their subdirectories", `
			mkdir d 755
			lstat d nlink = 2
			mkdir d/a 755
			mkdir d/b 755
			create d/f
			lstat d nlink = 4
			mkdir d/a/c 755
			lstat d nlink = 4
			lstat d/a nlink = 3
			rmdir d/a/c
			rmdir d/a
			lstat d nlink = 3`, nil},
		{"device numbers are kept", `
			mknod a block 600
			lstat a rdev = 7:300
			mknod b char 600
			lstat b rdev = 1:70000`, nil},
		{"users make no device nodes", `
			chmod . 777
			as 65535 mknod a block 600 = EPERM
			as 65535 mknod a char 600 = EPERM
			as 65535 mknod a fifo 600
			chmod . 755`, nil},
		{"dot, dot-dot, and no name", `
			mkdir . 755 = EEXIST
			mkdir .. 755 = EEXIST
			mkdir "" 755 = ENOENT
			create "" 644 = ENOENT
			symlink x "" = ENOENT
			mkfifo . 644 = EEXIST`, nil},
		{"a trailing slash names a directory", `
			create f
			mkdir d/ 755
			lstat d type = dir
			create g/ 644 = EISDIR
			mkfifo g/ 644 = ENOENT
			symlink x g/ = ENOENT
			open f/ rdonly = ENOTDIR
			stat f/ type = ENOTDIR
			stat d/ type = dir`, nil},
		{"a directory that was removed takes nothing", `
			mkdir d 755
			chdir d
			rmdir ../d
			create a 644 = ENOENT
			mkdir a 755 = ENOENT
			symlink x a = ENOENT
			mkfifo a 644 = ENOENT
			stat . nlink = 0
			ls . = ENOENT
			chdir ..`, nil},
	}},
	{"symlink", []rule{
		{"targets", `
			symlink x a
			readlink a = x
			lstat a size,mode = 1,777
			symlink some/where b
			lstat b size = 10
			symlink "" c = ENOENT
			readlink . = EINVAL
			create f
			readlink f = EINVAL`, nil},
		{"targets of 4095 bytes", `
			symlink t^4095 a
			lstat a size = 4095
			symlink t^4096 b = ENAMETOOLONG`, nil},
		{"a symlink to a directory is one", `
			mkdir d 755
			create d/f
			symlink d s
			lstat s/f type = file
			lstat s type = symlink
			lstat s/ type = dir
			stat s type = dir`, nil},
		{"40 in a row are followed, 41 are not", `
			create f
			symlink f l0
			symlink l0 l1
			symlink l1 l2
			symlink loop loop
			stat l2 type = file
			stat loop type = ELOOP
			lstat loop type = symlink
			open loop rdonly = ELOOP`, nil},
	}},
	{"open", []rule{
		{"what exists keeps owner, mode and times", `
			create f 640
			chown f 5 6
			move f:MC .:MC | open f wronly,creat 777
			lstat f mode,uid,gid = 640,5,6`, nil},
		{"O_TRUNC empties and moves times", `
			create f
			write f data
			move f:mc .:MC | open f wronly,trunc
			lstat f size = 0
			move f:mc | open f wronly,trunc`, nil},
		{"O_EXCL refuses what exists", `
			make $T a 644
			open a wronly,creat,excl = EEXIST`, everyType},
		{"O_NOFOLLOW", `
			create f
			symlink f s
			open s rdonly,nofollow = ELOOP
			open s wronly,nofollow = ELOOP
			open s rdwr,nofollow,creat = ELOOP
			open s path,nofollow
			open f rdonly,nofollow`, nil},
		{"directories are not written", `
			mkdir d 755
			open d wronly = EISDIR
			open d rdwr = EISDIR
			open d rdonly,trunc = EISDIR
			open d wronly,creat = EISDIR
			open d rdonly,creat = EISDIR
			open d rdonly`, nil},
		{"O_DIRECTORY", `
			create f
			mkdir d 755
			open f rdonly,directory = ENOTDIR
			open d rdonly,directory
			symlink d s
			open s rdonly,directory`, nil},
		{"a socket is not opened", `
			make socket s
			open s rdonly = ENXIO
			open s rdwr = ENXIO`, nil},
		{"a FIFO without a reader", `
			mkfifo p 644
			open p wronly,nonblock = ENXIO
			open p rdonly,nonblock`, nil},
		{"reading wants r, writing w", `
			chmod . 755
			create f 644
			chown f 100 200
			chmod f 477
			as 100 open f rdonly
			as 100 open f wronly = EACCES
			as 100 open f rdwr = EACCES
			chmod f 277
			as 100 open f rdonly = EACCES
			as 100 open f wronly
			chmod f 747
			as 101:200 open f rdonly
			as 101:200 open f wronly = EACCES
			as 101:5,200 open f wronly = EACCES
			chmod f 774
			as 102 open f rdonly
			as 102 open f wronly = EACCES
			as 102 open f rdwr = EACCES
			chmod f 770
			as 102 open f rdonly = EACCES
			as 102 open f rdonly,trunc = EACCES
			chmod f 000
			open f rdwr`, nil},
		{"O_TRUNC wants w", `
			create f 444
			write f data
			chown f 100 100
			chmod f 444
			as 101 open f rdonly,trunc = EACCES
			as 100 open f rdonly,trunc = EACCES
			lstat f size = 4
			chmod f 644
			as 100 open f rdonly,trunc
			lstat f size = 0`, nil},
		{"creating wants w and x of the directory", `
			mkdir d 755
			chown d 100 100
			chmod d 555
			as 100 create d/f = EACCES
			chmod d 666
			as 100 create d/f = EACCES
			as 100 open d/f rdonly = EACCES
			chmod d 333
			as 100 create d/f
			as 101 create d/g
			as 100 ls d = EACCES
			chmod d 755
			as 101 create d/h = EACCES`, nil},
		{"a new file is open as asked, whatever its mode", `
			chmod . 777
			as 100 fopen 1 f rdwr,creat 000
			as 100 fwrite 1 data
			as 100 open f rdonly = EACCES
			fstat 1 size,mode = 4,0
			chmod . 755`, nil},
		{"O_NOATIME is for the owner", `
			create f 666
			chmod f 666
			as 100 open f rdonly,noatime = EPERM
			chown f 100 100
			as 100 open f rdonly,noatime`, nil},
		{"O_TMPFILE has no name until it is linked", `
			mkdir d 755
			move d:MC | fopen 1 d rdwr,tmpfile 600
			ls d = ""
			fstat 1 nlink,mode,size = 0,600,0
			fwrite 1 data
			fread 1 = data
			move d:mc | flink 1 d/a
			fstat 1 nlink = 1
			read d/a = data
			link d/a d/b
			fstat 1 nlink = 2
			fopen 2 d rdwr,tmpfile,excl 600
			flink 2 d/c = ENOENT
			fopen 3 d rdonly,tmpfile = EINVAL
			create f
			fopen 4 f rdwr,tmpfile = ENOTDIR`, nil},
		{"a file in use as a program, and a directory as a file", `
			mkdir d 755
			read d = EISDIR`, nil},
	}},
}
