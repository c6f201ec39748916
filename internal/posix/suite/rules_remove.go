// SPDX-License-Identifier: Apache-2.0

package suite

var removeGroups = []group{
	{"unlink", []rule{
		{"a name goes, and the directory's times move", `
			make $T a 644
			move .:mc | unlink a
			gone a
			unlink a = ENOENT`, notDirs},
		{"of several names the others stay", `
			make $T a 644
			link a b
			lstat a nlink = 2
			move b:cM .:mc | unlink a
			lstat b nlink,type = 1,$T
			gone a`, []string{"file", "fifo", "block", "char", "socket", "symlink"}},
		{"a failed one moves nothing", `
			make $T a 644
			move .:MC a:MC | as 65535 unlink a = EACCES
			lstat a type = $T`, notDirs},
		{"not a directory", `
			mkdir d 755
			unlink d = EISDIR
			unlink d/ = EISDIR
			as 65535 unlink d = EACCES
			unlink . = EISDIR
			unlink .. = EISDIR`, nil},
		{"a symlink, not what it names", `
			create f
			symlink f s
			move f:MC | unlink s
			lstat f nlink = 1`, nil},
		{"an open file lives on", `
			create f
			fopen 1 f rdwr
			fwrite 1 data
			link f g
			move g:c | unlink f
			fstat 1 nlink = 1
			unlink g
			fstat 1 nlink,size = 0,4
			fwrite 1 more
			fread 1 = datamore
			ftruncate 1 2
			fchmod 1 600
			fchown 1 5 6
			fsetxattr 1 user.x y
			fstat 1 nlink,size,mode,uid,gid = 0,2,600,5,6
			flink 1 h = ENOENT
			fsync 1
			create f
			fstat 1 size = 2
			lstat f size = 0`, nil},
		{"wants w and x of the directory", `
			mkdir d 777
			chown d 100 100
			create d/f 666
			chown d/f 101 101
			chmod d 555
			as 100 unlink d/f = EACCES
			chmod d 666
			as 100 unlink d/f = EACCES
			chmod d 755
			as 101 unlink d/f = EACCES
			as 100 unlink d/f`, nil},
		{"a sticky directory", `
			mkdir d 777
			chmod d 1777
			chown d 100 100
			make $T d/a 644
			lchown d/a 101 101
			as 102 unlink d/a = EPERM
			as 101 unlink d/a
			make $T d/a 644
			lchown d/a 101 101
			as 100 unlink d/a
			make $T d/a 644
			lchown d/a 101 101
			unlink d/a
			chown d 0 0
			make $T d/a 644
			as 101 unlink d/a = EPERM
			lchown d/a 101 101
			as 101 unlink d/a`, notDirs},
	}},
	{"rmdir", []rule{
		{"a directory goes, and its parent's times and nlink follow", `
			mkdir d 755
			mkdir d/e 755
			lstat d nlink = 3
			move d:mc | rmdir d/e
			lstat d nlink = 2
			rmdir d/e = ENOENT
			rmdir d/
			gone d`, nil},
		{"only if it is empty", `
			mkdir d 755
			make $T d/a 644
			move .:MC d:MC | rmdir d = ENOTEMPTY|EEXIST
			lstat d/a type = $T`, everyType},
		{"only a directory", `
			make $T a 644
			rmdir a = ENOTDIR
			lstat a type = $T`, notDirs},
		{"not through a symlink, a dot or two", `
			mkdir d 755
			symlink d s
			rmdir s = ENOTDIR
			rmdir s/ = ENOTDIR
			rmdir d/. = EINVAL
			mkdir d/e 755
			rmdir d/e/.. = ENOTEMPTY|EEXIST`, nil},
		{"wants w and x of the parent", `
			mkdir d 777
			chown d 100 100
			mkdir d/e 755
			chmod d 555
			as 100 rmdir d/e = EACCES
			chmod d 666
			as 100 rmdir d/e = EACCES
			chmod d 755
			as 101 rmdir d/e = EACCES
			as 100 rmdir d/e`, nil},
		{"a sticky parent", `
			mkdir d 777
			chmod d 1777
			chown d 100 100
			mkdir d/a 755
			chown d/a 101 101
			as 102 rmdir d/a = EPERM
			as 101 rmdir d/a
			mkdir d/a 755
			chown d/a 101 101
			as 100 rmdir d/a`, nil},
		{"an open one lives on, empty", `
			mkdir d 755
			fopen 1 d rdonly
			rmdir d
			fstat 1 nlink,type = 0,dir
			mkdir d 755
			lstat d nlink = 2
			fstat 1 nlink = 0`, nil},
	}},
	{"link", []rule{
		{"one inode with two names", `
			make $T a 644
			lstat a nlink = 1
			move .:mc a:cM | link a b
			lstat a nlink = 2
			same a b = true
			link b c
			lstat a nlink = 3
			move b:cM | unlink a
			lstat b nlink,type = 2,$T
			unlink c
			lstat b nlink = 1`, notDirs},
		{"attributes are one's", `
			make $T a 644
			link a b
			chmod a 201
			lstat b mode = 201
			chown b 5 6
			lstat a uid,gid = 5,6
			utimens a 7.5 8.6
			lstat b mtime = 8.000000006`, plainOnes},
		{"content is one's", `
			create a
			link a b
			write a data
			read b = data
			truncate b 2
			read a = da
			append b ta
			read a = data`, nil},
		{"not a directory", `
			mkdir d 755
			link d e = EPERM
			as 65535 link d e = EPERM|EACCES`, nil},
		{"not onto what exists", `
			make $T a 644
			make $T b 644
			move a:MC b:MC .:MC | link a b = EEXIST
			link a a = EEXIST
			mkdir d 755
			link a d = EEXIST
			link a b/ = ENOTDIR|EEXIST|ENOENT`, []string{"file", "fifo", "socket", "symlink"}},
		{"of what is not there", `
			link a b = ENOENT
			create a
			link a d/b = ENOENT
			link a "" = ENOENT
			link "" b = ENOENT`, nil},
		{"a symlink itself, or what it names", `
			create f
			symlink f s
			link s t
			lstat t type,nlink = symlink,2
			link s u follow
			lstat u type,nlink = file,2
			same u f = true`, nil},
		{"wants w of the directory", `
			mkdir d 755
			mkdir e 755
			chown d 100 100
			chown e 100 100
			create d/f
			chown d/f 100 100
			as 100 link d/f e/f
			chmod e 555
			as 100 link d/f e/g = EACCES
			chmod e 666
			as 100 link d/f e/g = EACCES
			chmod e 755
			chmod d 666
			as 100 link d/f e/g = EACCES
			chmod d 555
			as 100 link d/f e/g
			as 100 link d/f d/g = EACCES`, nil},
		{"a failed one moves nothing", `
			create a
			move a:MC .:MC | as 65535 link a b = EACCES|EPERM
			lstat a nlink = 1`, nil},
		{"not across into a removed directory", `
			create f
			mkdir d 755
			chdir d
			rmdir ../d
			link ../f g = ENOENT
			chdir ..`, nil},
	}},
}
