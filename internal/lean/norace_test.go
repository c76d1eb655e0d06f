//go:build !race

package lean

const raceDetector = false
