// Requests with a Latchkey API key: go run . URL [COUNT]
//
// Uses only the standard library. The key is read from LATCHKEY_KEY, so that it is in no command line.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

var client = &http.Client{Timeout: 30 * time.Second}

// get returns the body of a GET request. After 429 or 503 it waits for Retry-After and tries again.
func get(url, key string, attempts int) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		r, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+key)
		answer, err := client.Do(r)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode < 300 {
			return body, err
		}
		wait, err := strconv.Atoi(answer.Header.Get("Retry-After"))
		again := answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable
		if !again || err != nil || attempt == attempts {
			return nil, fmt.Errorf("%s: %s", answer.Status, body) // 401 and 403 stay the same, however often the request is repeated
		}
		log.Printf("%d: waiting %d s", answer.StatusCode, wait)
		time.Sleep(time.Duration(wait) * time.Second)
	}
}

func main() {
	count := 1
	if len(os.Args) > 2 {
		var err error
		if count, err = strconv.Atoi(os.Args[2]); err != nil {
			log.Fatal(err)
		}
	}
	for range count {
		body, err := get(os.Args[1], os.Getenv("LATCHKEY_KEY"), 5)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(body))
	}
}
