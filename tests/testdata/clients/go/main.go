// This program uses the generated client against a running server: it creates a key, uses it, meets
// 403 and 429, and revokes it. The tests run it. Its arguments are the URLs of the API and of the
// admin endpoint; the admin token is in LATCHKEY_ADMIN_TOKEN.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
)

func main() {
	if err := journey(os.Args[1], os.Args[2], os.Getenv("LATCHKEY_ADMIN_TOKEN")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("200 403 429 401")
}

// clientWith returns a client that sends a key or a token with each request.
func clientWith(url, secret string) (*ClientWithResponses, error) {
	return NewClientWithResponses(url, WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+secret)
		return nil
	}))
}

func journey(api, admin, token string) error {
	ctx := context.Background()
	operator, err := clientWith(admin, token)
	if err != nil {
		return err
	}
	limits := map[string]int{"requests_per_minute_limit": 3}
	made, err := operator.CreateKeyWithResponse(ctx, &CreateKeyParams{}, KeyForm{Name: "journey", Permissions: []string{"can_read_agents"}, Limits: &limits})
	if err != nil || made.JSON201 == nil {
		return fmt.Errorf("create a key: %v, %v", made, err)
	}
	client, err := clientWith(api, made.JSON201.Key)
	if err != nil {
		return err
	}
	agents, err := client.ListAgentsWithResponse(ctx)
	if err != nil || agents.JSON200 == nil {
		return fmt.Errorf("list the agents: %v, %v", agents, err)
	}
	contacts, err := client.ListContactsWithResponse(ctx, &ListContactsParams{})
	if err != nil || contacts.JSON403 == nil || contacts.JSON403.Error != "permission_denied" {
		return fmt.Errorf("list the contacts without the permission: %v, %v", contacts, err)
	}
	for agents.JSON429 == nil {
		if agents, err = client.ListAgentsWithResponse(ctx); err != nil || agents.JSON200 == nil && agents.JSON429 == nil {
			return fmt.Errorf("exceed the limit: %v, %v", agents, err)
		}
	}
	if agents.JSON429.Error != "rate_limit_exceeded" || agents.HTTPResponse.Header.Get("Retry-After") == "" {
		return fmt.Errorf("exceed the limit: %s %v", agents.Body, agents.HTTPResponse.Header)
	}
	revoked, err := operator.RevokeKeyWithResponse(ctx, made.JSON201.Id, RevokeForm{})
	if err != nil || revoked.JSON200 == nil || revoked.JSON200.Status != "revoked" {
		return fmt.Errorf("revoke the key: %v, %v", revoked, err)
	}
	if agents, err = client.ListAgentsWithResponse(ctx); err != nil || agents.JSON401 == nil || agents.JSON401.Error != "invalid_key" {
		return fmt.Errorf("use the revoked key: %v, %v", agents, err)
	}
	return nil
}
