//go:build linux && !race && !386 && !s390x

package nowait

import (
	"io"
	"syscall"
	"unsafe"
)

// These call the system without telling the scheduler of Go, because they never wait: the sockets of
// package net are not blocking. Telling it takes about as long as the rest of a small read, and once
// a call takes 20 us, another thread is woken to take over.

// Read reads from a socket. again is true if there is nothing to read yet. At the end of the stream
// it returns io.EOF.
func Read(fd uintptr, b []byte) (n int, again bool, err error) { return receive(fd, b, 0) }

// Peek is like Read, but what it reads stays there to be read.
func Peek(fd uintptr, b []byte) (n int, again bool, err error) {
	return receive(fd, b, syscall.MSG_PEEK)
}

func receive(fd uintptr, b []byte, flags uintptr) (n int, again bool, err error) {
	for {
		r, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
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

// Write writes to a socket, as sendto(2), which needs less time than write(2) and raises no signal if
// the other end has closed the connection. again is true if there is no room yet.
func Write(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		r, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_NOSIGNAL, 0, 0)
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
