//go:build linux && !race

package lean

import (
	"io"
	"syscall"
	"unsafe"
)

// read and write call the system without telling the scheduler of Go, as they never wait: the sockets
// of package net are not blocking. Telling it takes about as long as the rest of a small read, and
// once a call takes 20 us, another thread is woken to take over.

// read reads from a descriptor without waiting. again is true if there is nothing to read yet. At
// the end of the stream it returns io.EOF.
func read(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		r, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			if r == 0 {
				return 0, false, io.EOF
			}
			return int(r), false, nil
		case syscall.EAGAIN:
			return 0, true, nil
		case syscall.EINTR:
		default:
			return 0, false, errno
		}
	}
}

// write writes to a descriptor without waiting. again is true if there is no room yet.
func write(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		r, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(r), false, nil
		case syscall.EAGAIN:
			return 0, true, nil
		case syscall.EINTR:
		default:
			return 0, false, errno
		}
	}
}
