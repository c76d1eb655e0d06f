// Sbom turns what "go version -m -json" says of a binary, on standard input,
// into a bill of materials in CycloneDX 1.5, on standard output.
//
//	go version -m -json latchkey | go run ./packaging/sbom v1.2.3
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

// component is one part of the program.
type component struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	PURL    string `json:"purl,omitempty"`
	Ref     string `json:"bom-ref"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go version -m -json BINARY | sbom VERSION")
		os.Exit(2)
	}
	if err := write(os.Stdin, os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(in io.Reader, out io.Writer, version string) error {
	var info debug.BuildInfo
	if err := json.NewDecoder(in).Decode(&info); err != nil {
		return fmt.Errorf("read what go version -m -json says: %w", err)
	}
	if info.Path == "" {
		return fmt.Errorf("there is no build information")
	}
	parts := []component{golang("stdlib", info.GoVersion[len("go"):])}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		parts = append(parts, golang(dep.Path, dep.Version))
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	// Without a time and a serial number, so that the same binary has the same list.
	return e.Encode(map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"metadata":   map[string]any{"component": component{Type: "application", Name: info.Path, Version: version, Ref: info.Path}},
		"components": parts,
	})
}

func golang(path, version string) component {
	purl := "pkg:golang/" + path + "@" + version
	return component{Type: "library", Name: path, Version: version, PURL: purl, Ref: purl}
}
