package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
)

// other is a server of others that does a part of what our program does.
type other struct {
	name    string
	program string   // its command, or its path
	args    []string // CONFIG is the path of the first file
	files   []string // templates of its files
	hidden  bool     // the configuration has hashes of the keys instead of the keys
}

// otherSetup is what another server is to do: answer with a body, or pass requests to an upstream.
type otherSetup struct {
	path, keys, body string // keys and body are paths of files
	upstream         string // URL; "" to answer
	logged           bool   // log each request
}

// otherValues are the values for the templates.
type otherValues struct {
	Address, Path, Dir string
	Upstream, Host     string // URL of the upstream and its host and port; "" to answer
	Body, Log          string // Body is the answer; Log is the path of the log, or "" for none
	Keys               int
}

// others are the servers that are measured where they are installed. Both take the key from the field
// X-API-Key, find the key and its permissions in a map, and limit the requests of each key in memory.
// The limits are too high to refuse any request here.
var others = []other{
	{name: "nginx", program: "nginx", args: []string{"-e", "stderr", "-c", "CONFIG"}, files: []string{nginxConfig}},
	{name: "HAProxy", program: "haproxy", args: []string{"-db", "-f", "CONFIG"}, files: []string{haproxyConfig}, hidden: true},
}

// In nginx, return comes before limit_req, so the answer is behind try_files. Its rate is the highest
// that it takes.
const nginxConfig = `daemon off;
user root;
worker_processes 1;
pid {{.Dir}}/pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
	{{if .Log}}access_log {{.Log}} combined;{{else}}access_log off;{{end}}
	keepalive_timeout 120s;
	keepalive_requests 1000000000;
	client_body_temp_path {{.Dir}}/b; proxy_temp_path {{.Dir}}/p; fastcgi_temp_path {{.Dir}}/f; uwsgi_temp_path {{.Dir}}/u; scgi_temp_path {{.Dir}}/s;
	map_hash_max_size {{.Keys}}0;
	map_hash_bucket_size 512;
	map $http_authorization $bearer { default ""; "~^Bearer (?<token>.+)$" $token; }
	map $http_x_api_key $apikey { default $http_x_api_key; "" $bearer; }
	map $apikey $client { default ""; include {{.Dir}}/clients; }
	map $apikey $permissions { default ""; include {{.Dir}}/permissions; }
	map $permissions $allowed { default 0; "~(^|,)can_read_agents(,|$)" 1; }
	limit_req_zone $client zone=keys:256m rate=1000000r/s;
	limit_req_status 429;
	open_file_cache max=16; open_file_cache_errors on; open_file_cache_valid 1h;
	{{if .Upstream}}upstream things { server {{.Host}}; keepalive 1024; keepalive_requests 1000000000; }{{end}}
	server {
		listen {{.Address}} backlog=4096;
		root {{.Dir}};
		location = {{.Path}} {
			if ($client = "") { return 401 '{"error":"unauthorized"}'; }
			if ($allowed = 0) { return 403 '{"error":"forbidden"}'; }
			limit_req zone=keys burst=1000000 nodelay;
			{{if .Upstream}}proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header X-API-Key "";
			proxy_pass http://things;{{else}}try_files /none @answer;{{end}}
		}
		{{if not .Upstream}}location @answer { default_type application/json; return 200 '{{.Body}}'; }{{end}}
	}
}
`

const haproxyConfig = `global
	nbthread 1
	maxconn 4096
	{{if .Log}}log stdout format raw local0{{end}}
defaults
	mode http
	{{if .Log}}log global
	option httplog{{end}}
	timeout client 60s
	timeout http-keep-alive 60s
	timeout http-request 10s
	timeout connect 5s
	timeout server 30s
backend keys
	stick-table type string len 64 size 2m expire 2m store http_req_rate(60s)
frontend api
	bind {{.Address}} backlog 4096
	http-request set-var(txn.key) req.hdr(x-api-key)
	http-request set-var(txn.key) http_auth_bearer unless { var(txn.key) -m found }
	http-request set-var(txn.hash) var(txn.key),sha2(256),hex
	http-request set-var(txn.permissions) var(txn.hash),map_str({{.Dir}}/permissions)
	http-request return status 401 content-type application/json string '{"error":"unauthorized"}' unless { var(txn.permissions) -m found }
	http-request return status 403 content-type application/json string '{"error":"forbidden"}' unless { var(txn.permissions) -m reg (^|,)can_read_agents(,|$) }
	http-request track-sc0 var(txn.hash) table keys
	http-request return status 429 content-type application/json string '{"error":"rate limited"}' if { sc0_http_req_rate gt 2000000000 }
	{{if .Upstream}}http-request del-header X-API-Key
	default_backend things
backend things
	http-reuse always
	server things {{.Host}} maxconn 1024{{else}}http-request return status 200 content-type application/json file {{.Dir}}/body if { path {{.Path}} }
	http-request return status 404{{end}}
`

// traefik returns Traefik, which cannot check keys. The configuration checks only the form of a key,
// and limits requests by the field with the key.
func traefik(file string) other {
	return other{name: "Traefik, the form of the key and a limit", program: file, args: []string{"--configFile=CONFIG"}, files: []string{traefikStatic, traefikDynamic}}
}

const traefikStatic = `global: { checkNewVersion: false, sendAnonymousUsage: false }
log: { level: ERROR }
entryPoints: { web: { address: "{{.Address}}" } }
providers: { file: { filename: "{{.Dir}}/config1.yml", watch: false } }
`

const traefikDynamic = `http:
  routers:
    things: { entryPoints: [web], rule: "Path(` + "`{{.Path}}`) && HeaderRegexp(`X-API-Key`, `^klen_[0-9A-Za-z]{36}$`)" + `", middlewares: [limit], service: up }
  middlewares:
    limit: { rateLimit: { average: 1000000, burst: 1000000, period: 1s, sourceCriterion: { requestHeaderName: X-API-Key } } }
  services:
    up: { loadBalancer: { servers: [ { url: "{{.Upstream}}" } ] } }
`

// other returns a function that starts another server. The error says if it is not installed.
func (b *bench) other(o other, setup otherSetup) (func() (*server, error), error) {
	if _, err := exec.LookPath(o.program); err != nil {
		return nil, fmt.Errorf("%s (%s is not installed)", o.name, o.program)
	}
	dir, err := os.MkdirTemp(b.dir, filepath.Base(o.program)+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // workers may run as another user
		return nil, err
	}
	secrets, err := os.ReadFile(setup.keys)
	if err != nil {
		return nil, err
	}
	values := otherValues{Path: setup.path, Dir: dir, Upstream: setup.upstream, Host: strings.TrimPrefix(setup.upstream, "http://")}
	if setup.logged {
		values.Log = filepath.Join(dir, "requests.log")
	}
	if values.Body, err = otherBody(setup, dir); err != nil {
		return nil, err
	}
	keys := strings.Fields(string(secrets))
	values.Keys = len(keys)
	if err := o.writeMaps(dir, keys); err != nil {
		return nil, err
	}
	return func() (*server, error) { return b.startOther(o, values, keys[0]) }, nil
}

// otherBody returns the answer in the fewest bytes, without line ends. It also writes it to a file.
func otherBody(setup otherSetup, dir string) (string, error) {
	if setup.body == "" {
		return "", nil
	}
	text, err := os.ReadFile(setup.body)
	if err != nil {
		return "", err
	}
	text = []byte(strings.TrimSpace(string(text)))
	if !json.Valid(text) || strings.ContainsAny(string(text), "'$\n") {
		return "", fmt.Errorf("the answer cannot be a part of a configuration: %.200s", text)
	}
	return string(text), os.WriteFile(filepath.Join(dir, "body"), text, 0o644)
}

// writeMaps writes the files with the keys.
func (o other) writeMaps(dir string, keys []string) error {
	var clients, permissions strings.Builder
	for i, key := range keys {
		if o.hidden {
			fmt.Fprintf(&permissions, "%X can_read_agents,can_initiate_calls\n", sha256.Sum256([]byte(key)))
			continue
		}
		fmt.Fprintf(&clients, "%q key_%d;\n", key, i)
		fmt.Fprintf(&permissions, "%q \"can_read_agents,can_initiate_calls\";\n", key)
	}
	if err := os.WriteFile(filepath.Join(dir, "clients"), []byte(clients.String()), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "permissions"), []byte(permissions.String()), 0o600)
}

// startOther starts another server and waits until it has answered a request with key.
func (b *bench) startOther(o other, values otherValues, key string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	values.Address = l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	for i, text := range o.files {
		var filled strings.Builder
		if err := template.Must(template.New(o.name).Parse(text)).Execute(&filled, values); err != nil {
			return nil, err
		}
		if err := os.WriteFile(o.config(values.Dir, i), []byte(filled.String()), 0o644); err != nil {
			return nil, err
		}
	}
	args := []string{o.program}
	for _, arg := range o.args {
		args = append(args, strings.ReplaceAll(arg, "CONFIG", o.config(values.Dir, 0)))
	}
	if values.Log != "" {
		if err := os.Remove(values.Log); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	return b.launch(process{core: serverCore, args: args, url: "http://" + values.Address, path: values.Path, key: key})
}

// config returns the path of the i-th file of the configuration.
func (o other) config(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("config%d.yml", i))
}
