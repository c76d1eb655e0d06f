// Package nowait reads from sockets and writes to them without ever waiting, inside the functions of
// syscall.RawConn, which wait. It is for Unix systems.
package nowait
