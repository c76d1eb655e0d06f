//go:build linux && !race && !386 && !s390x

package lean

import (
	"io"
	"syscall"
	"unsafe"
)

// socketRead is memory for read.
type socketRead struct {
	message syscall.Msghdr
	vector  syscall.Iovec
	control [8]uint64 // aligned as a control message must be
}

// tcpInq is the option TCP_INQ of linux/tcp.h, and the type of the control message with its number.
const tcpInq = 36

// countUnread makes the system say with each read how many bytes are left to be read. It reports
// whether it does, as it does for TCP.
func countUnread(fd uintptr) bool {
	return syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpInq, 1) == nil
}

// read reads from a descriptor without waiting, see internal/nowait. again is true if there is
// nothing to read yet. At the end of the stream it returns io.EOF. drained is whether neither bytes
// nor the end of the stream are left, so that whatever arrives later is reported by the poller.
func (s *socketRead) read(fd uintptr, b []byte) (n int, again, drained bool, err error) {
	s.vector.Base = unsafe.SliceData(b)
	s.vector.SetLen(len(b))
	for {
		s.message.Iov, s.message.Iovlen, s.message.Control = &s.vector, 1, (*byte)(unsafe.Pointer(&s.control))
		s.message.SetControllen(int(unsafe.Sizeof(s.control)))
		r, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&s.message)), 0)
		switch errno {
		case 0:
			if r == 0 {
				return 0, false, false, io.EOF
			}
			return int(r), false, s.unread() == 0, nil
		case syscall.EAGAIN:
			return 0, true, false, nil
		case syscall.EINTR:
		default:
			return 0, false, false, errno
		}
	}
}

// unread returns the number of bytes that are left to be read, as the last read has reported it. It
// is not 0 at the end of the stream, and -1 if it is not known.
func (s *socketRead) unread() int32 {
	head := (*syscall.Cmsghdr)(unsafe.Pointer(&s.control))
	if int(s.message.Controllen) < syscall.CmsgLen(4) || head.Level != syscall.IPPROTO_TCP || head.Type != tcpInq {
		return -1
	}
	return *(*int32)(unsafe.Add(unsafe.Pointer(&s.control), syscall.CmsgLen(0)))
}
