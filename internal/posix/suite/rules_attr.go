// SPDX-License-Identifier: Apache-2.0

package suite

var attrGroups = []group{
	{"chmod", []rule{
		{"sets the mode and moves ctime", `
			make $T a 644
			move a:cM .:MC | chmod a 111
			lstat a mode,type = 111,$T
			chmod a 7654
			lstat a mode = 7654
			chmod a 0
			lstat a mode = 0
			move a:c | chmod a 0`, notLinks},
		{"follows symlinks", `
			make $T a 644
			symlink a s
			move a:c s:C | chmod s 222
			lstat a mode = 222
			lstat s mode = 777
			symlink nowhere n
			chmod n 644 = ENOENT`, notLinks},
		{"is for the owner", `
			make $T a 644
			lchown a 100 100
			as 100 chmod a 640
			move a:C | as 101 chmod a 644 = EPERM
			lstat a mode = 640
			symlink a s
			as 101 chmod s 644 = EPERM
			as 100 chmod s 604
			lstat a mode = 604`, notLinks},
		{"setgid only for a member of the group", `
			create f 755
			chown f 100 200
			chmod f 755
			as 100:5 chmod f 2755
			lstat f mode = 755
			as 100:200 chmod f 2755
			lstat f mode = 2755
			as 100:5,200 chmod f 6755
			lstat f mode = 6755
			as 100:5 chmod f 4755
			lstat f mode = 4755
			mkdir d 755
			chown d 100 200
			as 100:5 chmod d 2755
			lstat d mode = 755
			chmod d 2755
			lstat d mode = 2755`, nil},
		{"users set the sticky bit of files on Linux", `
			chmod . 777
			as 100 create f 644
			as 100 chmod f 1644
			lstat f mode = 1644
			as 100 mkdir d 755
			as 100 chmod d 1755
			lstat d mode = 1755
			chmod . 755`, nil},
		{"by descriptor, and of a file without a name", `
			create f 644
			fopen 1 f rdonly
			move f:cM | fchmod 1 600
			lstat f mode = 600
			unlink f
			fchmod 1 4711
			fstat 1 mode = 4711`, nil},
	}},
	{"chown", []rule{
		{"sets owner and group and moves ctime", `
			make $T a 644
			move a:cM .:MC | lchown a 123 456
			lstat a uid,gid,type = 123,456,$T
			lchown a 0 0
			lstat a uid,gid = 0,0
			lchown a 4294967294 4294967294
			lstat a uid,gid = 4294967294,4294967294`, everyType},
		{"-1 leaves alone", `
			make $T a 644
			lchown a 123 456
			lchown a -1 7
			lstat a uid,gid = 123,7
			lchown a 8 -1
			lstat a uid,gid = 8,7
			lchown a -1 -1
			lstat a uid,gid = 8,7`, everyType},
		{"follows symlinks, or not", `
			make $T a 644
			symlink a s
			move a:c s:C | chown s 123 456
			lstat a uid,gid = 123,456
			lstat s uid,gid = 0,0
			move a:C s:c | lchown s 7 8
			lstat s uid,gid = 7,8
			lstat a uid = 123`, notLinks},
		{"users give the group to their own groups", `
			make $T a 644
			lchown a 100 100
			move a:c | as 100:100,200 lchown a -1 200
			lstat a uid,gid = 100,200
			as 100:100,200 lchown a 100 100
			lstat a gid = 100
			as 100 lchown a -1 300 = EPERM
			as 100 lchown a 101 -1 = EPERM
			as 100 lchown a 0 0 = EPERM
			move a:C | as 101 lchown a 101 101 = EPERM
			as 101 lchown a 100 100 = EPERM
			lstat a uid,gid = 100,100`, everyType},
		{"setuid and setgid go", `
			create f 755
			chmod f 6755
			chown f 5 6
			lstat f mode = 755
			chmod f 6755
			chown f -1 7
			lstat f mode = 755
			chmod f 6755
			chown f 8 -1
			lstat f mode = 755
			chmod f 6711
			chown f 100 100
			chmod f 6711
			as 100:100,200 chown f -1 200
			lstat f mode = 711`, nil},
		{"setgid without execution by the group", `
			create f 644
			chown f 100 100
			chmod f 6644
			chown f 5 6
			lstat f mode = 2644
			chown f 100 100
			chmod f 6644
			as 100:100,200 chown f -1 200
			lstat f mode = 2644|644`, nil},
		{"directories keep setuid and setgid", `
			mkdir d 755
			chmod d 6755
			chown d 5 6
			lstat d mode = 6755`, nil},
		{"by descriptor", `
			create f 755
			fopen 1 f rdonly
			chmod f 4755
			move f:c | fchown 1 5 6
			lstat f uid,gid,mode = 5,6,755
			unlink f
			fchown 1 7 8
			fstat 1 uid,gid = 7,8`, nil},
	}},
	{"utimens", []rule{
		{"sets both times, to the nanosecond", `
			make $T a 644
			move a:c .:MC | utimens a 1900000000.1 1950000000.999999999 nofollow
			lstat a atime,mtime = 1900000000.000000001,1950000000.999999999
			utimens a 1950000000.5 1900000000 nofollow
			lstat a mtime = 1900000000.000000000`, everyType},
		{"before 1970, after 2038 and 2106", `
			create f
			utimens f -1 -2000000000.7
			lstat f atime,mtime = -1.000000000,-2000000000.000000007
			utimens f 2147483648 4294967296.1
			lstat f atime,mtime = 2147483648.000000000,4294967296.000000001
			utimens f 0 0
			lstat f mtime = 0.000000000`, nil},
		{"UTIME_OMIT leaves alone", `
			create f
			utimens f 5.5 6.6
			move f:C | utimens f omit omit
			utimens f omit 7
			lstat f atime,mtime = 5.000000005,7.000000000
			utimens f 8 omit
			lstat f atime,mtime = 8.000000000,7.000000000`, nil},
		{"UTIME_NOW is now", `
			create f
			utimens f 5 5
			move f:mc | utimens f omit now
			lstat f atime = 5.000000000
			utimens f 5 5
			move f:mc | utimens f now now`, nil},
		{"follows symlinks, or not", `
			create f
			symlink f s
			utimens f 1 2
			utimens s 3 4 nofollow
			lstat f mtime = 2.000000000
			lstat s mtime = 4.000000000
			utimens s 5 6
			lstat f mtime = 6.000000000
			lstat s mtime = 4.000000000`, nil},
		{"now is for who may write", `
			create f 644
			as 100 utimens f now now = EACCES
			chmod f 666
			as 100 utimens f now now
			chown f 100 100
			chmod f 444
			as 100 utimens f now now
			utimens f now now`, nil},
		{"any other time is for the owner", `
			create f 666
			chmod f 666
			move f:MC | as 100 utimens f 1 2 = EPERM
			as 100 utimens f now 2 = EPERM
			as 100 utimens f omit 2 = EPERM
			as 100 utimens f 1 omit = EPERM
			as 100 utimens f now omit = EPERM
			as 100 utimens f omit omit
			chown f 100 100
			chmod f 444
			as 100 utimens f 1 2
			lstat f mtime = 2.000000000`, nil},
		{"nanoseconds have a limit", `
			create f
			utimens f 0.1000000000 0 = EINVAL
			utimens f 0 0.1000000000 = EINVAL`, nil},
	}},
	{"access", []rule{
		{"asks for what a user may", `
			create f 640
			chown f 100 200
			chmod f 640
			as 100 access f rw
			as 100 access f x = EACCES
			as 101:200 access f r
			as 101:200 access f w = EACCES
			as 102 access f r = EACCES
			access f rw
			access f x = EACCES
			chmod f 001
			access f x
			as 102 access f x
			as 100 access f x = EACCES
			mkdir d 000
			access d rwx
			as 100 access d r = EACCES`, nil},
		{"searching a directory wants x", `
			mkdir d 755
			create d/f
			chown d 100 100
			chmod d 644
			as 100 stat d/f type = EACCES
			as 100 ls d = f
			chmod d 711
			as 101 stat d/f type = file
			as 101 ls d = EACCES
			chmod d 700
			as 101 stat d/f type = EACCES
			as 101 chmod d/f 644 = EACCES
			as 101 chown d/f 101 101 = EACCES`, nil},
	}},
}
