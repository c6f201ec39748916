// SPDX-License-Identifier: Apache-2.0

package suite

var sizeGroups = []group{
	{"truncate", []rule{
		{"shrinks and grows, with zeros", `
			create f
			write f 0123456789
			move f:mc .:MC | truncate f 5
			read f = 01234
			move f:mc | truncate f 8
			lstat f size = 8
			read f = "01234\x00\x00\x00"
			truncate f 1234567
			lstat f size = 1234567
			truncate f 0
			lstat f size = 0
			fopen 1 f rdwr
			move f:mc | ftruncate 1 567
			fstat 1 size = 567
			ftruncate 1 0
			fwrite 1 x
			ftruncate 1 3
			fread 1 = "x\x00\x00"`, nil},
		{"ftruncate to the same size moves times", `
			create f
			write f data
			fopen 1 f rdwr
			move f:mc | ftruncate 1 4`, nil},
		{"not negative, not a directory", `
			create f
			truncate f -1 = EINVAL
			fopen 1 f rdwr
			ftruncate 1 -1 = EINVAL
			mkdir d 755
			truncate d 0 = EISDIR
			fopen 2 f rdonly
			ftruncate 2 0 = EINVAL|EBADF
			mkfifo p 644
			truncate p 0 = EINVAL`, nil},
		{"wants w of the file", `
			create f 644
			write f data
			move f:MC | as 100 truncate f 0 = EACCES
			lstat f size = 4
			chmod f 666
			as 100 truncate f 0
			chmod f 444
			chown f 100 100
			as 100 truncate f 1 = EACCES`, nil},
		{"an open descriptor keeps its right", `
			create f 666
			chown f 100 100
			as 100 fopen 1 f rdwr
			chmod f 000
			as 100 ftruncate 1 7
			as 100 fwrite 1 data
			fstat 1 size = 7
			chown f 0 0
			as 100 fwrite 1 data
			as 100 fread 1 = datadata`, nil},
		{"to a very big size", `
			create f
			truncate f 1099511627776
			lstat f size = 1099511627776
			truncate f 5
			read f = "\x00\x00\x00\x00\x00"`, nil},
		{"through a symlink", `
			create f
			write f data
			symlink f s
			truncate s 1
			read f = d`, nil},
	}},
	{"fallocate", []rule{
		{"grows a file, with zeros", `
			create f
			fopen 1 f rdwr
			move f:mc | fallocate 1 plain 0 567
			fstat 1 size = 567
			fallocate 1 plain 20 100
			fstat 1 size = 567
			fallocate 1 plain 500 200
			fstat 1 size = 700
			fallocate 1 plain 0 0 = EINVAL
			fallocate 1 plain -1 5 = EINVAL
			fallocate 1 plain 0 -1 = EINVAL`, nil},
		{"keep size", `
			create f
			fopen 1 f rdwr
			fwrite 1 data
			fallocate 1 keep 0 100000
			fstat 1 size = 4
			fread 1 = data`, nil},
		{"punch a hole", `
			create f
			write f 0123456789
			fopen 1 f rdwr
			move f:mc | fallocate 1 punch,keep 2 3
			fread 1 = "01\x00\x00\x0056789"
			fallocate 1 punch,keep 8 100
			fread 1 = "01\x00\x00\x00567\x00\x00"
			fallocate 1 punch 0 5 = EOPNOTSUPP`, nil},
		{"zero a range", `
			create f
			write f 0123456789
			fopen 1 f rdwr
			move f:mc | fallocate 1 zero 2 3
			fread 1 = "01\x00\x00\x0056789"
			fallocate 1 zero,keep 8 10
			fstat 1 size = 10
			fallocate 1 zero 8 10
			fstat 1 size = 18`, nil},
		{"not without the right to write", `
			create f
			fopen 1 f rdonly
			fallocate 1 plain 0 5 = EBADF
			fopen 2 . rdonly
			fallocate 2 plain 0 5 = EBADF|EISDIR
			mkfifo p 644
			fopen 3 p rdwr,nonblock
			fallocate 3 plain 0 5 = ESPIPE|ENODEV`, nil},
	}},
	{"write", []rule{
		{"moves mtime and ctime, also when nothing grows", `
			create f
			fopen 1 f rdwr
			move f:mc .:MC | fwrite 1 data
			fopen 2 f rdwr
			move f:mc | fwrite 2 DATA
			read f = DATA
			move f:MC | fwrite 2 ""`, nil},
		{"reading moves neither", `
			create f
			write f data
			mkdir d 755
			move f:MC | read f = data
			move d:MC | ls d = ""
			symlink f s
			move s:MC | readlink s = f`, nil},
		{"O_APPEND writes at the end, wherever that is", `
			create f
			fopen 1 f wronly,append
			fopen 2 f wronly,append
			fwrite 1 a
			fwrite 2 b
			fwrite 1 c
			read f = abc
			truncate f 1
			fwrite 2 d
			read f = ad`, nil},
		{"not by a descriptor for reading, or for its path", `
			create f
			fopen 1 f rdonly
			fwrite 1 x = EBADF
			fopen 2 f path
			fwrite 2 x = EBADF
			fopen 3 f wronly
			fread 3 = EBADF
			fchmod 2 600 = EBADF
			fstat 2 type = file`, nil},
	}},
}
