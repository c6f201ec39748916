// SPDX-License-Identifier: Apache-2.0

package suite

var xattrGroups = []group{
	{"xattr", []rule{
		{"set, read, list, remove", `
			make $T a 644
			move a:cM .:MC | setxattr a user.one 1
			getxattr a user.one = "1"
			setxattr a user.one longer
			getxattr a user.one = "longer"
			setxattr a user.two ""
			getxattr a user.two = ""
			listxattr a = user.one,user.two
			move a:cM | removexattr a user.one
			getxattr a user.one = ENODATA
			listxattr a = user.two
			move a:C | removexattr a user.one = ENODATA`, []string{"file", "dir"}},
		{"create and replace", `
			create f
			setxattr f user.x 1 replace = ENODATA
			setxattr f user.x 1 create
			move f:C | setxattr f user.x 2 create = EEXIST
			getxattr f user.x = "1"
			setxattr f user.x 2 replace
			getxattr f user.x = "2"`, nil},
		{"values of any bytes", `
			create f
			setxattr f user.x "\x00\xff\x00"
			getxattr f user.x = "\x00\xff\x00"`, nil},
		{"names", `
			create f
			setxattr f user. x = EINVAL
			setxattr f x y = EOPNOTSUPP
			setxattr f nope.x y = EOPNOTSUPP
			setxattr f "" y = ERANGE
			setxattr f user.N256 y = ERANGE`, nil},
		{"user attributes are for files and directories", `
			make $T a 644
			setxattr a user.x y = EPERM
			getxattr a user.x = EPERM|ENODATA
			listxattr a = ""|`, []string{"fifo", "socket", "block", "char", "symlink"}},
		{"trusted attributes on every type, for root", `
			make $T a 644
			setxattr a trusted.x y
			getxattr a trusted.x = "y"
			listxattr a = trusted.x
			as 100 getxattr a trusted.x = ENODATA
			as 100 setxattr a trusted.x z = EPERM
			as 100 removexattr a trusted.x = EPERM
			removexattr a trusted.x`, everyType},
		{"users do not see the names of trusted attributes", `
			create f
			setxattr f trusted.x y
			setxattr f user.x y
			as 100 listxattr f = user.x`, nil},
		{"wants r and w of the file", `
			create f 600
			setxattr f user.x y
			as 100 getxattr f user.x = EACCES
			as 100 setxattr f user.x z = EACCES
			as 100 listxattr f = user.x
			chmod f 644
			as 100 getxattr f user.x = "y"
			as 100 setxattr f user.x z = EACCES
			as 100 removexattr f user.x = EACCES
			chmod f 666
			as 100 setxattr f user.x z
			mkdir d 777
			chmod d 1777
			as 100 setxattr d user.x y = EPERM
			chown d 100 100
			as 100 setxattr d user.x y`, nil},
		{"they go where the inode goes", `
			create f
			setxattr f user.x y
			link f g
			getxattr g user.x = "y"
			rename f h
			getxattr h user.x = "y"
			create k
			rename k h
			getxattr h user.x = ENODATA
			getxattr g user.x = "y"
			chmod g 600
			truncate g 100
			chown g 5 6
			getxattr g user.x = "y"`, nil},
		{"security attributes", `
			create f
			setxattr f security.thing v
			getxattr f security.thing = "v"
			listxattr f = security.thing
			setxattr f security.capability bad = EINVAL|EPERM
			as 100 setxattr f security.thing w = EPERM`, nil},
	}},
}

// recordRules hold on a mount where owners and modes are only kept.
var recordRules = []rule{
	{"any mode is only shown", `
		create f 000
		write f data
		read f = data
		lstat f mode = 0
		mkdir d 755
		create d/g
		chmod d 000
		lstat d/g type = file
		ls d = g
		unlink d/g
		rmdir d`, nil},
	{"any owner is only shown", `
		create f
		write f data
		chown f 0 0
		lstat f uid,gid = 0,0
		read f = data
		append f x
		chmod f 4755
		lstat f mode = 4755
		utimens f 1 2
		chown f 4000000 4000000
		lstat f uid,gid = 4000000,4000000
		unlink f`, nil},
	{"the kernel refuses device nodes and attributes of root", `
		mknod a block 600 = EPERM
		mknod a char 600 = EPERM
		create f
		setxattr f trusted.x y = EPERM
		setxattr f security.x y = EPERM`, nil},
	{"sticky directories of others hold nothing back", `
		mkdir d 777
		chmod d 1777
		create d/f
		chown d/f 0 0
		chown d 1 1
		unlink d/f`, nil},
}
