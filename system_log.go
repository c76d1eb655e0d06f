package main

import (
	"log/slog"
	"time"
)

// LogQueue is a destination of a log that keeps lines in memory for a moment.
type LogQueue interface {
	Flush(patience time.Duration) // writes the lines and waits for that, at most for patience
	Lost() uint64                 // number of lines that could not be written since the start
}

// flushPatience is how long FlushLog waits for the log to be written.
const flushPatience = 2 * time.Second

// FlushAtPanic writes the lines of log that wait in memory if the goroutine panics. The panic then
// goes on. Defer it directly in each goroutine whose panic ends the program.
func FlushAtPanic(log *slog.Logger) {
	if p := recover(); p != nil {
		FlushLog(log)
		panic(p)
	}
}

// FlushLog writes the lines of log that wait in memory. It waits up to two seconds for that.
func FlushLog(log *slog.Logger) {
	if f, ok := log.Handler().(LogQueue); ok {
		f.Flush(flushPatience)
	}
}

// LostLines returns the number of lines of log that could not be written since the start.
func LostLines(log *slog.Logger) uint64 {
	if f, ok := log.Handler().(LogQueue); ok {
		return f.Lost()
	}
	return 0
}
