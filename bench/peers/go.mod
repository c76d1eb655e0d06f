// The servers that bench compares with the program, in a module of their own, so that the program
// does not require their libraries.
module latchkey/bench/peers

go 1.26.0

replace latchkey => ../..

require (
	github.com/lesismal/nbio v1.6.8
	github.com/valyala/fasthttp v1.78.0
	latchkey v0.0.0
)

require (
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/lesismal/llib v1.2.2 // indirect
	github.com/molecule-man/go-brrr v1.3.1 // indirect
	github.com/valyala/bytebufferpool v1.0.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
