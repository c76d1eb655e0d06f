package dashboard

import (
	"fmt"
	"slices"
	"strings"
)

// sample is a text that shows how a program uses a key. ID is the id of its field on the page.
type sample struct{ ID, Name, Text string }

// Rows returns the number of lines.
func (s sample) Rows() int { return strings.Count(s.Text, "\n") + 1 }

// createdPage is the data of the page that shows a new secret.
type createdPage struct {
	Key     map[string]any
	Samples []sample
	Rotated bool // the key has another secret than before; otherwise it is new
}

// samplePath returns the path of a request that a key with these permissions may send. Every key may
// read itself.
func samplePath(permissions []string) string {
	for _, one := range [][2]string{{"can_read_calls", "/api/v1/calls"}, {"can_read_agents", "/api/v1/agents"}, {"can_read_contacts", "/api/v1/contacts"}} {
		if slices.Contains(permissions, one[0]) {
			return one[1]
		}
	}
	return "/api/v1/key"
}

// samplesOf returns a text for each way to use a key. api is the URL of the API.
func samplesOf(secret, api, path string) []sample {
	address := api + path
	return []sample{
		{"curl", "curl", fmt.Sprintf("curl -H \"Authorization: Bearer %s\" \\\n  %s", secret, address)},
		{"env", ".env", fmt.Sprintf("API_URL=%s\nAPI_KEY=%s", api, secret)},
		{"python", "Python", fmt.Sprintf(`import os, urllib.request
request = urllib.request.Request("%s", headers={"Authorization": "Bearer " + os.environ["API_KEY"]})
print(urllib.request.urlopen(request).read().decode())`, address)},
		{"javascript", "JavaScript", fmt.Sprintf(`const answer = await fetch("%s", {
  headers: { Authorization: "Bearer " + process.env.API_KEY },
});
console.log(answer.status, await answer.json());`, address)},
		{"go", "Go", fmt.Sprintf(`package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	request, err := http.NewRequest("GET", "%s", nil)
	if err != nil {
		panic(err)
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("API_KEY"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.Status, string(body))
}`, address)},
	}
}
