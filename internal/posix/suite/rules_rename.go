// SPDX-License-Identifier: Apache-2.0

package suite

var renameGroups = []group{
	{"rename", []rule{
		{"a name moves, the inode stays", `
			make $T a 644
			link a l
			move a>b:cM .:mc | rename a b
			gone a
			lstat b type,nlink = $T,2
			same b l = true
			rename a c = ENOENT`, notDirs},
		{"a directory with all that is in it", `
			mkdir d 755
			mkdir d/e 755
			create d/e/f
			write d/e/f data
			move d>x:cM .:mc | rename d x
			read x/e/f = data
			gone d`, nil},
		{"to another directory", `
			mkdir d 755
			mkdir e 755
			make $T d/a 644
			move d:mc e:mc d/a>e/b:cM | rename d/a e/b
			lstat e/b type = $T
			ls d = ""|`, notDirs},
		{"directories take their parent's nlink along", `
			mkdir d 755
			mkdir e 755
			mkdir d/a 755
			lstat d nlink = 3
			lstat e nlink = 2
			move d:mc e:mc | rename d/a e/b
			lstat d nlink = 2
			lstat e nlink = 3
			same e/b/.. e = true`, nil},
		{"over a file: its other names stay", `
			make $T a 644
			make $T b 644
			link b c
			move c:cM a>b:cM .:mc | rename a b
			lstat c nlink = 1
			lstat b nlink,type = 1,$T
			gone a`, notDirs},
		{"over every type that is no directory", `
			create a
			write a data
			make $T b 644
			rename a b
			read b = data
			gone a`, notDirs},
		{"over an open file", `
			create a
			write a new
			create b
			write b old
			fopen 1 b rdwr
			fopen 2 a rdwr
			rename a b
			fread 1 = old
			fstat 1 nlink = 0
			fwrite 1 OLD
			fread 1 = OLD
			read b = new
			fstat 2 nlink = 1
			fwrite 2 NEW
			read b = NEW`, nil},
		{"over an empty directory", `
			mkdir a 755
			create a/f
			mkdir b 755
			rename a b
			lstat b/f type = file
			gone a
			mkdir c 755
			mkdir c/d 755
			mkdir x 755
			lstat . nlink = 5
			rename c x
			lstat . nlink = 4
			lstat x/d type = dir`, nil},
		{"not over a directory with something in it", `
			mkdir a 755
			mkdir b 755
			make $T b/x 644
			move a:MC b:MC .:MC | rename a b = ENOTEMPTY|EEXIST
			lstat b/x type = $T`, everyType},
		{"no directory over what is none", `
			mkdir d 755
			make $T a 644
			move d:MC a:MC .:MC | rename d a = ENOTDIR
			lstat a type = $T`, notDirs},
		{"nothing over a directory that is none itself", `
			mkdir d 755
			make $T a 644
			move d:MC a:MC .:MC | rename a d = EISDIR
			lstat a type = $T`, notDirs},
		{"not into itself", `
			mkdir d 755
			mkdir d/e 755
			rename d d/x = EINVAL
			rename d d/e/x = EINVAL
			rename d d/e = EINVAL
			rename d/e d = ENOTEMPTY`, nil},
		{"not dot and dot-dot", `
			mkdir d 755
			mkdir d/e 755
			rename d/. x = EBUSY|EINVAL
			rename d/.. x = EBUSY|EINVAL
			rename d/e d/. = EBUSY|EINVAL
			rename d/e d/.. = EBUSY|EINVAL`, nil},
		{"two names of one inode both stay", `
			create a
			link a b
			move .:MC a:MC | rename a b
			lstat a nlink = 2
			rename a a
			lstat a nlink = 2`, nil},
		{"a symlink, not what it names", `
			create f
			symlink f s
			move f:MC | rename s t
			readlink t = f
			gone s
			create g
			rename g t
			lstat t type = file
			lstat f nlink = 1`, nil},
		{"trailing slashes", `
			create f
			mkdir d 755
			rename f x/ = ENOTDIR
			rename f/ x = ENOTDIR
			rename d/ x/
			lstat x type = dir
			rename "" y = ENOENT
			rename f "" = ENOENT`, nil},
		{"what is missing", `
			rename a b = ENOENT
			create a
			rename a d/b = ENOENT
			rename a a/b = ENOTDIR
			create f
			rename f/x y = ENOTDIR
			rename a N256 = ENAMETOOLONG
			rename N256 a = ENAMETOOLONG
			rename a N255
			rename N255 a`, nil},
		{"wants w and x of both directories", `
			mkdir d 755
			mkdir e 755
			chown d 100 100
			chown e 100 100
			create d/f
			chown d/f 100 100
			chmod e 555
			as 100 rename d/f e/f = EACCES
			chmod e 755
			chmod d 555
			as 100 rename d/f e/f = EACCES
			as 100 rename d/f d/g = EACCES
			chmod d 666
			as 100 rename d/f e/f = EACCES
			chmod d 755
			as 100 rename d/f e/f`, nil},
		{"a directory that changes its parent must be writable", `
			mkdir d 777
			mkdir e 777
			chmod d 777
			chmod e 777
			mkdir d/x 700
			as 100 rename d/x d/y
			as 100 rename d/y e/y = EACCES
			chown d/y 100 100
			chmod d/y 500
			as 100 rename d/y e/y = EACCES
			chmod d/y 700
			as 100 rename d/y e/y
			create d/f 600
			as 100 rename d/f e/f`, nil},
		{"a failed one moves nothing", `
			make $T a 644
			move a:MC .:MC | as 65535 rename a b = EACCES
			lstat a type = $T`, everyType},
		{"from a sticky directory", `
			mkdir d 777
			mkdir e 777
			chmod d 1777
			chmod e 777
			chown d 100 100
			make $T d/a 777
			lchown d/a 101 101
			as 102 rename d/a e/a = EPERM
			as 102 rename d/a d/b = EPERM
			as 101 rename d/a e/a
			as 101 rename e/a d/a
			lchown d/a 102 102
			as 100 rename d/a d/b`, notDirs},
		{"over a file in a sticky directory", `
			mkdir d 777
			mkdir e 777
			chmod d 777
			chmod e 1777
			chown e 100 100
			make $T d/a 644
			lchown d/a 102 102
			make $T e/a 644
			lchown e/a 101 101
			as 102 rename d/a e/a = EPERM
			lchown e/a 102 102
			as 102 rename d/a e/a
			make $T d/b 644
			make $T e/b 644
			as 100 rename d/b e/b`, notDirs},
		{"NOREPLACE", `
			make $T a 644
			make $T b 644
			move a:MC b:MC .:MC | rename a b noreplace = EEXIST
			rename a c noreplace
			lstat c type = $T
			rename c c noreplace = EEXIST`, everyType},
		{"EXCHANGE", `
			make $T a 644
			mkdir d 755
			create d/f
			write d/f data
			move .:mc d:mc a>d/f:cM d/f>a:cM | rename a d/f exchange
			read a = data
			lstat d/f type = $T
			rename a x exchange = ENOENT
			gone x`, notDirs},
		{"EXCHANGE of a file and a directory", `
			mkdir d 755
			mkdir d/sub 755
			create f
			mkdir e 755
			mkdir e/x 755
			lstat d nlink = 3
			lstat e nlink = 3
			create d/f
			move d:mc e:mc | rename d/f e/x exchange
			lstat d nlink = 4
			lstat e nlink = 2
			lstat e/x type = file
			lstat d/f type = dir
			rename d d/f exchange = EINVAL
			rename d/f d exchange = EINVAL
			rename d e exchange
			lstat e/f type = dir
			rename d e both = EINVAL`, nil},
		{"WHITEOUT leaves a device 0:0", `
			create a
			mkdir d 755
			move .:mc d:mc a>d/b:cM | rename a d/b whiteout
			lstat a type,rdev,nlink = char,0:0,1
			lstat d/b type = file
			mkdir e 755
			rename e f whiteout
			lstat e type = char
			chmod . 777
			create g
			chown g 100 100
			as 100 rename g h whiteout
			lstat g type,rdev = char,0:0
			chmod . 755`, nil},
		{"a long way down and back", `
			mkdir a 755
			mkdir a/b 755
			mkdir a/b/c 755
			create a/b/c/f
			rename a/b/c c
			rename a c/a
			same c/a/.. c = true
			lstat c/a/b type = dir
			lstat c/f type = file
			rename c/a/b c/a = ENOTEMPTY|EEXIST
			lstat c nlink = 3`, nil},
	}},
}
