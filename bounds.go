// The bounds family says how much the keys of an owner can store and use. bounds.go has the bounds
// that the configuration sets. It does not enforce them: the store, the fields and the resources do.

package main

// Bounds limit what the keys of an owner can store and how much of the service they can use. Each
// bound is a setting of the section [bounds] with the tags of Config. 0 means no bound. A bound that
// is lowered applies to the next change. What is stored already can still be read.
type Bounds struct {
	// RecordBytes is the largest size of one record that a key changes, in bytes of its JSON. It does
	// not apply to the operator.
	RecordBytes int `toml:"record_bytes" default:"262144" min:"16384" max:"16777216"`
	// TranscriptLength is the largest length of the transcript of a call, in characters. A longer
	// transcript is cut.
	TranscriptLength int `toml:"transcript_length" default:"200000" min:"1000" max:"10000000"`
}
