//go:build race

package main

// raceDetector reports whether the tests run with the race detector. sync.Pool then drops values at
// random, so allocations cannot be counted.
const raceDetector = true
