package lean

import "testing"

// BenchmarkHead reads a head with the fields of a usual client: another one each time, and the same
// again and again.
func BenchmarkHead(b *testing.B) {
	const head = "GET /api/v1/agents HTTP/1.1\r\nHost: localhost:8080\r\nX-API-Key: klen_0123456789012345678901234567890\r\n" +
		"User-Agent: curl/8.5.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
	b.Run("another", func(b *testing.B) {
		s := newSlot()
		for b.Loop() {
			s.fields.last.text = ""
			s.fields.scan([]byte(head), "")
		}
	})
	b.Run("same", func(b *testing.B) {
		s := newSlot()
		for b.Loop() {
			s.fields.scan([]byte(head), "")
		}
	})
}
