package main

import "sync"

// spareExchanges has exchanges that are used again. An exchange has more than 500 bytes, most of the
// memory that a small request would need otherwise. The zero value is ready to use. It is safe for
// concurrent use.
type spareExchanges struct {
	pool  sync.Pool
	spoil bool // use none again, so that in tests every use after retire fails
}

// take returns an exchange whose fields are all zero.
func (s *spareExchanges) take() *exchange {
	if x, ok := s.pool.Get().(*exchange); ok {
		return x
	}
	return new(exchange)
}

// retire empties x, and keeps it for another request. Nobody may use x or its Request afterwards.
// It must not be called for a request that has failed, because others may keep its limits and its
// error, nor for one of a guarded route, because the handler may leave goroutines behind.
func (s *spareExchanges) retire(x *exchange) {
	*x = exchange{}
	if !s.spoil {
		s.pool.Put(x)
	}
}
