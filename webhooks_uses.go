package main

// PublishUse publishes key.new_network or key.in_url for a notice about the key with this id, in the transaction
// that stores the use.
func PublishUse(tx *Tx, keyring *Keyring, id string, n KeyNotice) error {
	event := keyNetwork
	if n.Kind == ActivityCarrier {
		event = keyInURL
	}
	ids, err := subscriptions(tx, event, 0)
	if err != nil || len(ids) == 0 {
		return err
	}
	key, err := keyring.Get(tx, id)
	if err != nil {
		return err
	}
	e := KeyWebhookEvent(event, key, n.Use.At)
	e.Body["use"] = map[string]any{
		"at": Seconds(n.Use.At), "network": TextOrNone(NetworkOfUse(n.Use.IP)), "client": AddrOrNone(n.Use.IP), "carrier": n.Use.Carrier,
	}
	return Publish(tx, e)
}
