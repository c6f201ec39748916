// SPDX-License-Identifier: Apache-2.0

package suite

// mode6755 are ways to make a file with setuid and setgid of user 100 that
// others may write.
const setuidFile = `
	create f 777
	write f 0123456789
	chown f 100 100
	chmod f 6777
`

var privGroups = []group{
	{"setuid", []rule{
		{"goes when a stranger writes", setuidFile + `
			as 101 write f data
			lstat f mode = 777`, nil},
		{"goes when a stranger appends", setuidFile + `
			as 101 append f data
			lstat f mode = 777`, nil},
		{"goes when its owner writes", setuidFile + `
			as 100 append f data
			lstat f mode = 777`, nil},
		{"stays when root writes", setuidFile + `
			append f data
			lstat f mode = 6777`, nil},
		{"goes when a stranger truncates", setuidFile + `
			as 101 truncate f 3
			lstat f mode = 777`, nil},
		{"goes when a stranger grows it", setuidFile + `
			as 101 truncate f 30000
			lstat f mode = 777`, nil},
		{"goes when a stranger opens with O_TRUNC", setuidFile + `
			as 101 open f wronly,trunc
			lstat f mode = 777`, nil},
		{"goes when a stranger allocates", setuidFile + `
			as 101 fopen 1 f rdwr
			as 101 fallocate 1 plain 0 100000
			lstat f mode = 777`, nil},
		{"goes when a stranger punches a hole", setuidFile + `
			as 101 fopen 1 f rdwr
			as 101 fallocate 1 punch,keep 0 4
			lstat f mode = 777`, nil},
		{"goes when a stranger zeroes", setuidFile + `
			as 101 fopen 1 f rdwr
			as 101 fallocate 1 zero 0 4
			lstat f mode = 777`, nil},
		{"goes when a stranger writes to an open file", setuidFile + `
			as 101 fopen 1 f rdwr
			lstat f mode = 6777
			as 101 fwrite 1 x
			lstat f mode = 777
			chmod f 6777
			as 101 fwrite 1 y
			lstat f mode = 777
			chmod f 6777
			as 101 ftruncate 1 1
			lstat f mode = 777`, nil},
		{"stays when a stranger opens, reads and fails", setuidFile + `
			as 101 read f = 0123456789
			as 101 open f rdwr
			as 101 truncate f -1 = EINVAL
			as 101 chmod f 777 = EPERM
			as 101 chown f 101 101 = EPERM
			lstat f mode = 6777`, nil},
		{"stays when a stranger asks for no owner", `
			mknod f file 6777
			chown f 100 100
			chmod f 6777
			as 101 chown f -1 -1 = EPERM
			lstat f mode = 6777
			chmod f 2666
			as 101:101,100 chown f -1 -1
			lstat f mode = 2666
			chmod f 777
			as 101 chown f -1 -1
			chmod f 6777
			as 100 chown f -1 -1
			lstat f mode = 777`, nil},
		{"stays when root punches a hole in what had capabilities", setuidFile + `
			fopen 1 f rdwr
			fwrite 1 x
			setxattr f security.capability "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			fallocate 1 punch,keep 0 4
			getxattr f security.capability = ENODATA
			lstat f mode = 6777`, nil},
		{"goes when root asks for no owner, of what had capabilities too", `
			mknod f file 6777
			chmod f 6777
			setxattr f security.capability "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			chown f -1 -1
			getxattr f security.capability = ENODATA
			lstat f mode = 777`, nil},
		{"setgid without execution by the group means locking", `
			create f 777
			write f data
			chown f 100 100
			chmod f 2767
			as 101 append f x
			lstat f mode = 2767|767
			chmod f 4767
			as 101 append f x
			lstat f mode = 767`, nil},
		{"capabilities go when anybody writes", `
			create f 777
			chmod f 777
			setxattr f security.capability "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			as 101 append f x
			getxattr f security.capability = ENODATA
			setxattr f security.capability "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			append f x
			getxattr f security.capability = ENODATA`, nil},
		{"capabilities go with truncation and a new owner", `
			create f 777
			chmod f 777
			write f data
			setxattr f security.capability "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			truncate f 1
			getxattr f security.capability = ENODATA
			setxattr f security.capability "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			chown f 5 6
			getxattr f security.capability = ENODATA
			setxattr f security.capability "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			chmod f 755
			utimens f 1 2
			link f g
			rename f h
			getxattr h security.capability = "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"`, nil},
	}},
	{"acl", []rule{
		{"an access ACL is kept, and the mode follows its mask", `
			create f 644
			move f:cM | setacl f access u::rwx,u:100:rw-,g::r-x,m::rwx,o::---
			getacl f access = u::rwx,u:100:rw-,g::r-x,m::rwx,o::---
			lstat f mode = 770
			chmod f 640
			getacl f access = u::rw-,u:100:rw-,g::r-x,m::r--,o::---
			lstat f mode = 640
			listxattr f = system.posix_acl_access
			move f:cM | removexattr f system.posix_acl_access
			getacl f access = ENODATA
			lstat f mode = 650|640`, nil},
		{"one that a mode can say is a mode", `
			create f 600
			setacl f access u::rw-,g::r--,o::r-x
			getacl f access = ENODATA
			lstat f mode = 645
			listxattr f = ""|`, nil},
		{"it is obeyed", `
			create f 600
			chown f 50 50
			setacl f access u::rw-,u:100:r--,u:101:rw-,g::---,g:200:-w-,m::rw-,o::---
			as 100 open f rdonly
			as 100 open f wronly = EACCES
			as 101 open f rdwr
			as 102:200 open f wronly
			as 102:5,200 open f rdonly = EACCES
			as 103 open f rdonly = EACCES
			as 103:50 open f rdonly = EACCES
			chmod f 644
			as 100 open f rdonly
			as 101 open f wronly = EACCES
			as 101 open f rdonly
			as 103 open f rdonly
			as 103:50 open f rdonly = EACCES`, nil},
		{"ACLs of directories are obeyed", `
			mkdir d 700
			create d/f
			setacl d access u::rwx,u:100:--x,u:101:rwx,g::---,m::rwx,o::---
			as 100 stat d/f type = file
			as 100 ls d = EACCES
			as 101 ls d = f
			as 101 create d/g
			as 102 stat d/f type = EACCES`, nil},
		{"only the owner sets them", `
			create f 666
			chmod f 666
			chown f 50 50
			as 51 setacl f access u::rw-,g::r--,o::--- = EPERM
			as 50 setacl f access u::rw-,u:1:r--,g::r--,m::rwx,o::---
			as 51 removexattr f system.posix_acl_access = EPERM
			as 51 getacl f access = u::rw-,u:1:r--,g::r--,m::rwx,o::---
			mkdir d 755
			as 51 setacl d default u::rw-,g::r--,o::--- = EPERM`, nil},
		{"setting one clears setgid for a stranger to the group", `
			create f 755
			chown f 100 200
			chmod f 2755
			as 100:5 setacl f access u::rwx,u:1:r--,g::r-x,m::r-x,o::---
			lstat f mode = 750
			chmod f 2755
			as 100:200 setacl f access u::rwx,u:1:r--,g::r-x,m::r-x,o::---
			lstat f mode = 2750
			chmod f 2755
			setacl f access u::rwx,u:2:r--,g::r-x,m::r-x,o::---
			lstat f mode = 2750`, nil},
		{"bad ones are refused", `
			create f 644
			setacl f access u::rw-,g::r-- = EINVAL
			setacl f access u::rw-,u:1:r--,g::r--,o::--- = EINVAL
			setxattr f system.posix_acl_access bad = EINVAL|EOPNOTSUPP
			setacl f default u::rw-,g::r--,o::--- = EACCES
			symlink f s
			setacl s access u::rw-,g::r--,o::--- = EOPNOTSUPP
			getacl f access = ENODATA`, nil},
		{"a default ACL changes nothing of its directory", `
			mkdir d 755
			move d:c | setacl d default u::rwx,u:100:rwx,g::r-x,m::rwx,o::---
			lstat d mode = 755
			getacl d default = u::rwx,u:100:rwx,g::r-x,m::rwx,o::---
			getacl d access = ENODATA
			removexattr d system.posix_acl_default
			getacl d default = ENODATA
			removexattr d system.posix_acl_default`, nil},
		{"a default ACL is inherited, and the umask ignored", `
			mkdir d 755
			setacl d default u::rwx,u:100:rwx,g::r-x,m::rwx,o::---
			umask 077
			create d/f 666
			getacl d/f access = u::rw-,u:100:rwx,g::r-x,m::rw-,o::---
			lstat d/f mode = 660
			getacl d/f default = ENODATA|EACCES
			mkdir d/e 777
			getacl d/e access = u::rwx,u:100:rwx,g::r-x,m::rwx,o::---
			getacl d/e default = u::rwx,u:100:rwx,g::r-x,m::rwx,o::---
			lstat d/e mode = 770
			mkfifo d/p 640
			getacl d/p access = u::rw-,u:100:rwx,g::r-x,m::r--,o::---
			mkdir d/e/g 700
			getacl d/e/g default = u::rwx,u:100:rwx,g::r-x,m::rwx,o::---
			getacl d/e/g access = u::rwx,u:100:rwx,g::r-x,m::---,o::---
			symlink x d/s
			getacl d/s access = EOPNOTSUPP|ENODATA
			create x/y = ENOENT`, nil},
		{"a default ACL that is a mode", `
			mkdir d 755
			setacl d default u::rwx,g::r-x,o::---
			umask 0
			create d/f 666
			lstat d/f mode = 640
			getacl d/f access = ENODATA
			umask 077
			create d/g 777
			lstat d/g mode = 750
			mkdir d/e 777
			lstat d/e mode = 750
			getacl d/e default = u::rwx,g::r-x,o::---`, nil},
		{"a default ACL and O_TMPFILE, rename and link", `
			mkdir d 755
			setacl d default u::rwx,u:100:rwx,g::r-x,m::rwx,o::---
			fopen 1 d rdwr,tmpfile 666
			flink 1 d/t
			getacl d/t access = u::rw-,u:100:rwx,g::r-x,m::rw-,o::---
			create f
			rename f d/f
			getacl d/f access = ENODATA
			create g
			link g d/g
			getacl d/g access = ENODATA`, nil},
		{"a default ACL and setgid", `
			mkdir d 755
			chown d 0 777
			chmod d 2775
			setacl d default u::rwx,u:100:rwx,g::rwx,m::rwx,o::r-x
			mkdir d/e 755
			lstat d/e mode,gid = 2755,777
			create d/f 644
			lstat d/f mode,gid = 644,777`, nil},
		{"chown keeps the ACL", `
			create f 644
			setacl f access u::rw-,u:100:r--,g::r--,m::r--,o::---
			chown f 5 6
			getacl f access = u::rw-,u:100:r--,g::r--,m::r--,o::---`, nil},
	}},
}
