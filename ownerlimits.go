package main

import "errors"

// OwnerLimits are the numbers that an owner has in place of the defaults of the
// limits which all its keys share. 0 is no limit.
type OwnerLimits struct {
	Owner  uint64         `json:"owner"`
	Limits map[string]int `json:"limits"`
}

// OwnerLimitTable keeps them; only the Keyring writes to it.
var OwnerLimitTable = Table[OwnerLimits]{
	Name: "owner_limits",
	Key:  func(o OwnerLimits) []byte { return IDKey(o.Owner) },
}

// LimitsOfOwner reads the numbers of an owner, nil where it has none.
func LimitsOfOwner(tx *Tx, owner uint64) (map[string]int, error) {
	o, err := OwnerLimitTable.Get(tx, IDKey(owner))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return o.Limits, err
}
