package main

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"net/http"
)

// openAPI describes every endpoint of both doors (OpenAPI 3.1). A test holds
// it against the routes, and every answer in the tests against it.
//
//go:embed openapi.json
var openAPI []byte

// OpenAPI gives the description of all endpoints, as JSON. It must not be
// changed.
func OpenAPI() []byte { return openAPI }

// ServeOpenAPI answers with the description. It needs no key.
func ServeOpenAPI(w http.ResponseWriter, r *http.Request) {
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(openAPI))
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "no-cache")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_ = WriteBody(w, http.StatusOK, openAPI)
}
