package main

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnections_Wait(t *testing.T) {
	var pipe [3]net.Conn
	for i := range pipe {
		pipe[i], _ = net.Pipe()
	}
	for _, tt := range []struct {
		name string
		do   func(c *Connections)
		want time.Duration // that it waits
	}{
		{"none", func(*Connections) {}, 0},
		{"idle ones", func(c *Connections) {
			c.Note(pipe[0], http.StateNew)
			c.Note(pipe[0], http.StateActive)
			c.Note(pipe[0], http.StateIdle)
		}, 0},
		{"one that says nothing", func(c *Connections) { c.Note(pipe[0], http.StateNew) }, patience},
		{"one whose request takes longer", func(c *Connections) {
			c.Note(pipe[0], http.StateNew)
			c.Note(pipe[1], http.StateActive)
			time.AfterFunc(time.Second, func() { c.Note(pipe[0], http.StateActive) })
			time.AfterFunc(5*time.Second, func() { c.Note(pipe[0], http.StateClosed) })
			time.AfterFunc(4*time.Second, func() { c.Note(pipe[1], http.StateClosed) })
		}, 5 * time.Second},
		{"one that never ends", func(c *Connections) { c.Note(pipe[2], http.StateActive) }, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := NewConnections()
			tt.do(c)
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			c.Wait(ctx)
			if got := time.Since(began); got != tt.want {
				t.Errorf("%s: waited %v, want %v", tt.name, got, tt.want)
			}
		})
	}
}
