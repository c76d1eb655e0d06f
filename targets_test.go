package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"code.dny.dev/ssrf"
)

func TestTargets_CheckURL(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"https://hooks.example.net/klen?x=1", ""},
		{"http://hooks.example.net:8080", ""},
		{"https://93.184.216.34/", ""},
		{"https://[2606:2800:220:1::1]/", ""},
		{"", "must be a URL"},
		{"hooks.example.net", "must be a URL"},
		{"https://", "must be a URL"},
		{"https:///path", "must be a URL"},
		{"https://hooks.example.net/" + strings.Repeat("a", 2048), "must be a URL"},
		{"file:///etc/passwd", "must be a URL"},
		{"gopher://hooks.example.net/", "must begin with https://"},
		{"https://good@hooks.example.net/", "user name"},
		{"http://good@127.0.0.1/", "user name"},
		{"https://hooks.example.net/#a", "#fragment"},
		{"http://hooks.example.net:22/", "port"},
		{"http://hooks.example.net:25/", "port"},
		{"http://hooks.example.net:99999/", "port"},
		{"http://127.0.0.1/", "private network"},
		{"http://0.0.0.0/", "private network"},
		{"http://10.1.2.3/", "private network"},
		{"http://172.16.0.1/", "private network"},
		{"http://192.168.1.1/", "private network"},
		{"http://100.64.0.1/", "private network"},
		{"http://198.18.0.1/", "private network"},
		{"http://224.0.0.1/", "private network"},
		{"http://169.254.169.254/latest/meta-data", "private network"},
		{"http://[::1]/", "private network"},
		{"http://[::]/", "private network"},
		{"http://[::ffff:127.0.0.1]/", "private network"},
		{"http://[64:ff9b::7f00:1]/", "private network"},
		{"http://[fe80::1%25eth0]/", "private network"},
		{"http://[fd00:ec2::254]/", "private network"},
		{"http://localhost/", "private network"},
		{"http://LocalHost./", "private network"},
		{"http://a.localhost/", "private network"},
		{"http://127.255.255.254/", "private network"},
		{"http://127.0.0.1./", "private network"},
		{"http://255.255.255.255/", "private network"},
		{"http://240.0.0.1/", "private network"},
		{"http://192.0.0.192/", "private network"},
		{"http://100.100.100.200/", "private network"},
		{"http://168.63.129.16/", "private network"},
		{"http://[::127.0.0.1]/", "private network"},
		{"http://[0:0:0:0:0:ffff:7f00:1]/", "private network"},
		{"http://[::ffff:169.254.169.254]/", "private network"},
		{"http://[64:ff9b:1::a00:1]/", "private network"},
		{"http://[2002:7f00:1::]/", "private network"},
		{"http://[2001:0:7f00:1::]/", "private network"},
		{"http://[2001:db8::1]/", "private network"},
		{"http://[fe80::1]/", "private network"},
		{"http://[fec0::1]/", "private network"},
		{"http://[fc00::1]/", "private network"},
		{"http://[ff02::1]/", "private network"},
		{"http://[::1%25lo]/", "private network"},
		{"http://127.1/", "write an address"},
		{"http://127.0.1/", "write an address"},
		{"http://2130706433/", "write an address"},
		{"http://017700000001/", "write an address"},
		{"http://0x7f000001/", "write an address"},
		{"http://0X7F.0.0.0x1/", "write an address"},
		{"http://0177.0.0.1/", "write an address"},
		{"http://127.0.0.01/", "write an address"},
		{"http://127.0.0.256/", "write an address"},
		{"http://0/", "write an address"},
		{"http://127.1./", "write an address"},
		{"http://0x/", "write an address"},
		{"http://hooks.example.net.:443/", ""},
		{"http://1.2.3.4.example.net/", ""},
		{"http://0xcafe.example.net/", ""},
		{"https://127.0.0.1:99999/", "private network"},
		{"http:127.0.0.1/", "must be a URL"},
		{"http:/127.0.0.1/", "must be a URL"},
		{"//127.0.0.1/", "must begin with https://"},
		{"ftp://127.0.0.1/", "must begin with https://"},
		{"dict://127.0.0.1:11211/", "must begin with https://"},
		{"ldap://127.0.0.1/", "must begin with https://"},
		{"unix://127.0.0.1/control.sock", "must begin with https://"},
		{"javascript:alert(1)", "must be a URL"},
		{"http://127.0.0.1:80@hooks.example.net/", "user name"},
		{"http://hooks.example.net:80@127.0.0.1/", "user name"},
		{"http://hooks.example.net\\@127.0.0.1/", "must be a URL"},
		{"http://hooks.example.net /", "must be a URL"},
		{"http://hooks.example.net/\r\nHost: x", "must be a URL"},
		{"http://[::1/", "must be a URL"},
		{"http://hooks.example.net:x/", "must be a URL"},
		{"http://hooks.example.net:0/", "port"},
		{"http://hooks.example.net:6379/", ""},
	} {
		err := NewTargets(false).CheckURL(tt.url)
		if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrValidation) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%q: got %v, want %q", tt.url, err, tt.want)
		}
		allowed := NewTargets(true).CheckURL(tt.url)
		if unsafe := tt.want == "private network" || tt.want == "port" || tt.want == ""; unsafe != (allowed == nil) {
			t.Errorf("%q with private targets allowed: got %v", tt.url, allowed)
		}
	}
}

// dnsAnswers is a name server in the other end of a pipe: it answers every
// question with the next of its list: the addresses there, separated by commas,
// as far as they are of the kind that was asked for.
type dnsAnswers struct {
	asked atomic.Int32
	list  []string
}

func (d *dnsAnswers) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	go d.serve(there)
	return here, nil
}

// serve speaks DNS over a stream (RFC 1035 section 4.2.2).
func (d *dnsAnswers) serve(c net.Conn) {
	defer c.Close()
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		q := make([]byte, binary.BigEndian.Uint16(head))
		if _, err := io.ReadFull(c, q); err != nil {
			return
		}
		end := 12 // of the header; the question's name follows
		for q[end] != 0 {
			end += int(q[end]) + 1
		}
		end += 5 // the name's end, type, class
		kind := binary.BigEndian.Uint16(q[end-4:])
		answer := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
		for text := range strings.SplitSeq(d.list[int(d.asked.Load())%len(d.list)], ",") {
			if ip := netip.MustParseAddr(text); kind == 1 && ip.Is4() || kind == 28 && ip.Is6() {
				answer[7]++
				answer = append(answer, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(ip.BitLen()/8))
				answer = append(answer, ip.AsSlice()...)
			}
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// TestTargets_Connections makes real connections: to literal addresses, which a
// check of the URL has been kept from, and to names that resolve to them. No
// listener may see any.
func TestTargets_Connections(t *testing.T) {
	var seen atomic.Int32
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				seen.Add(1)
				_ = c.Close()
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]", "localhost", "169.254.169.254", "10.0.0.1", "[64:ff9b::7f00:1]",
			"[::127.0.0.1]", "[2002:7f00:1::]", "[::1%25lo]", "[fe80::1%25lo]", "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127\u30020\u30020\u30021", "168.63.129.16"} {
			refuseTarget(t, NewTargets(false), "http://"+host+":"+port+"/")
		}
		// What Go takes for names and others for addresses, under a name server
		// that agrees with the others.
		for _, host := range []string{"127.0.0.1.", "localhost.", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0", "127.0.0.1.nip.example"} {
			targets := NewTargets(false)
			targets.resolver = &net.Resolver{PreferGo: true, Dial: (&dnsAnswers{list: []string{"127.0.0.1"}}).dial}
			var none *net.DNSError
			if err := askTarget(t, targets, "http://"+host+":"+port+"/"); !errors.Is(err, ErrTarget) && !errors.As(err, &none) {
				t.Errorf("%s: got %v, want it refused", host, err)
			}
		}
		for _, list := range [][]string{{"127.0.0.1"}, {"::1"}, {"::ffff:127.0.0.1"}, {"169.254.169.254"}, {"10.0.0.1"}, {"fd00:ec2::254"}, {"0.0.0.0"}, {"::"},
			{"fe80::1"}, {"64:ff9b::7f00:1"}, {"2002:7f00:1::"}, {"2001:0:7f00:1::"}, {"100.64.0.1"}, {"192.168.0.1"}, {"172.31.0.1"}, {"224.0.0.1"}, {"168.63.129.16"}} {
			names := &dnsAnswers{list: list}
			targets := NewTargets(false)
			targets.resolver = &net.Resolver{PreferGo: true, Dial: names.dial}
			if err := targets.CheckURL("http://rebind.example.net:" + port + "/"); err != nil {
				t.Fatal(err)
			}
			refuseTarget(t, targets, "http://rebind.example.net:"+port+"/")
		}
	}
	refuseTarget(t, NewTargets(false), "http://93.184.216.34:22/")
	if n := seen.Load(); n != 0 {
		t.Errorf("%d connections arrived, want none", n)
	}
}

// TestTargets_NameChangesItsMind has a name that is public when it is checked
// and of this machine when it is connected to.
func TestTargets_NameChangesItsMind(t *testing.T) {
	names := &dnsAnswers{list: []string{"93.184.216.34", "127.0.0.1"}}
	targets := NewTargets(false)
	targets.resolver = &net.Resolver{PreferGo: true, Dial: names.dial}
	ips, err := targets.resolver.LookupHost(context.Background(), "rebind.example.net")
	if err != nil || ips[0] != "93.184.216.34" {
		t.Fatalf("got %v, %v", ips, err)
	}
	names.asked.Add(1)
	refuseTarget(t, targets, "http://rebind.example.net:8080/")
}

// TestTargets_SeveralAddresses has a name that stands for an allowed address and
// for another one too: whichever comes first, only the allowed one is connected
// to, and where nobody listens there the request does not go on to the other.
func TestTargets_SeveralAddresses(t *testing.T) {
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int32
	within := &http.Server{ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			seen.Add(1)
		}
	}}
	go func() { _ = within.Serve(inside) }()
	defer within.Close()
	_, port, _ := net.SplitHostPort(inside.Addr().String())
	at := "http://both.example.net:" + port + "/"
	for _, list := range []string{"127.0.0.2,127.0.0.1", "127.0.0.1,127.0.0.2", "::1,127.0.0.2,127.0.0.1", "127.0.0.1,10.0.0.1,127.0.0.2"} {
		targets := NewTargets(false)
		targets.guardian = ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.2/32"))) // stands for a public one
		targets.resolver = &net.Resolver{PreferGo: true, Dial: (&dnsAnswers{list: []string{list}}).dial}
		if err := askTarget(t, targets, at); !errors.Is(err, ErrTarget) && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v", list, err)
		}
		outside, err := net.Listen("tcp", "127.0.0.2:"+port)
		if err != nil {
			t.Skip("127.0.0.2 is no address of this machine: ", err)
		}
		public := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })}
		go func() { _ = public.Serve(outside) }()
		client := targets.Client()
		res, err := client.Post(at, "", nil)
		if err != nil || res.StatusCode != 204 {
			t.Fatalf("%s: got %v, %v, want the answer of the allowed address", list, res, err)
		}
		_ = res.Body.Close()
		client.CloseIdleConnections()
		_ = public.Close()
	}
	if n := seen.Load(); n != 0 {
		t.Errorf("%d connections arrived inside, want none", n)
	}
}

// refuseTarget wants a request to be refused before a connection is made.
func refuseTarget(t *testing.T, targets *Targets, url string) {
	t.Helper()
	if err := askTarget(t, targets, url); !errors.Is(err, ErrTarget) {
		t.Errorf("%s: got %v, want it refused", url, err)
	}
}

// askTarget makes a request that must fail, and gives why it did.
func askTarget(t *testing.T, targets *Targets, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := targets.Client().Do(r)
	if err == nil {
		_ = answer.Body.Close()
		t.Fatalf("%s: got an answer", url)
	}
	return err
}
