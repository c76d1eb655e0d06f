package main

// Bounds limit what the keys of an owner can store and how much of the service they can use. Each
// bound is a setting of the section [bounds]. No bound applies to the operator. 0 means no bound.
type Bounds struct {
	RecordBytes int // largest size of one record that a key changes, in bytes as stored
}
