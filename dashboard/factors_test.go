package dashboard

import "testing"

func TestFactorList_Suffices(t *testing.T) {
	app, here, elsewhere := factorRow{Kind: factorKinds["totp"]}, factorRow{Kind: factorKinds["passkey"]}, factorRow{Kind: factorKinds["passkey"], Elsewhere: "other.example.com"}
	for _, tt := range []struct {
		name  string
		rows  []factorRow
		codes int
		want  bool
	}{
		{"nothing", nil, 0, false}, {"an app", []factorRow{app}, 0, false}, {"an app and codes", []factorRow{app}, 10, false},
		{"one passkey", []factorRow{app, here}, 0, false}, {"one passkey and codes", []factorRow{here}, 1, true}, {"two passkeys", []factorRow{here, here}, 0, true},
		{"one of another host", []factorRow{here, elsewhere}, 0, false}, {"codes and a passkey of another host", []factorRow{elsewhere}, 10, false},
	} {
		if got := (factorList{Rows: tt.rows, Codes: tt.codes}).Suffices(); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
