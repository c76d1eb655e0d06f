package promtext

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const awkward = "a\\b\"c\nd {},= é"

// sample returns metrics of each kind, one of which has no series.
func sample() []Metric {
	h := NewHistogram(.5, 1, 2)
	for _, v := range []float64{.25, .5, 1.5, 100} {
		h.Observe(v)
	}
	return []Metric{
		{Name: "asked_total", Help: "Two\nlines and a \\.", Kind: KindCounter, Labels: []string{"code", "route"}, Collect: func(to *Series) {
			to.Add(2, "404", awkward)
			to.Add(1e15, "200", "/b")
			to.Add(1, "200", "/a")
		}},
		{Name: "nothing", Help: "Nothing.", Kind: KindGauge, Collect: func(*Series) {}},
		{Name: "depth", Help: "Depth.", Kind: KindGauge, Collect: func(to *Series) { to.Add(math.Inf(1)) }},
		{Name: "took_seconds", Help: "Time.", Kind: KindHistogram, Labels: []string{"route"}, Collect: func(to *Series) { to.AddHistogram(h, "/a") }},
	}
}

func TestWrite(t *testing.T) {
	var page bytes.Buffer
	if err := Write(&page, sample()); err != nil {
		t.Fatal(err)
	}
	const want = `# HELP asked_total Two\nlines and a \\.
# TYPE asked_total counter
asked_total{code="200",route="/a"} 1
asked_total{code="200",route="/b"} 1e+15
asked_total{code="404",route="a\\b\"c\nd {},= é"} 2
# HELP depth Depth.
# TYPE depth gauge
depth +Inf
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{route="/a",le="0.5"} 2
took_seconds_bucket{route="/a",le="1"} 2
took_seconds_bucket{route="/a",le="2"} 3
took_seconds_bucket{route="/a",le="+Inf"} 4
took_seconds_sum{route="/a"} 102.25
took_seconds_count{route="/a"} 4
`
	if page.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &page, want)
	}
}

// TestWrite_Prometheus reads the text with Prometheus's own parser.
func TestWrite_Prometheus(t *testing.T) {
	var page bytes.Buffer
	if err := Write(&page, sample()); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&page)
	if err != nil {
		t.Fatal(err)
	}
	asked, took := families["asked_total"], families["took_seconds"]
	if asked.GetHelp() != "Two\nlines and a \\." || len(asked.GetMetric()) != 3 || asked.GetMetric()[2].GetLabel()[1].GetValue() != awkward || asked.GetMetric()[1].GetCounter().GetValue() != 1e15 {
		t.Errorf("got %v", asked)
	}
	if h := took.GetMetric()[0].GetHistogram(); h.GetSampleCount() != 4 || h.GetSampleSum() != 102.25 || len(h.GetBucket()) != 4 || h.GetBucket()[2].GetCumulativeCount() != 3 {
		t.Errorf("got %v", took)
	}
	if len(families) != 3 || !math.IsInf(families["depth"].GetMetric()[0].GetGauge().GetValue(), 1) {
		t.Errorf("got %v", families)
	}
}

func TestHistogram_Concurrent(t *testing.T) {
	h := NewHistogram(1, 2)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				h.Observe(1.5)
			}
		})
	}
	all.Wait()
	if n, sum := h.counts[1].Load(), math.Float64frombits(h.sum.Load()); n != 8000 || sum != 12000 {
		t.Errorf("got %d values with the sum %v", n, sum)
	}
	if n := testing.AllocsPerRun(100, func() { h.Observe(3) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func TestServe(t *testing.T) {
	for _, tt := range []struct {
		accept string
		packed bool
	}{
		{"", false},
		{"gzip", true},
		{"deflate, GZIP;q=0.5", true},
		{"gzip;q=0", false},
		{"gzip; q=0.000, br", false},
		{"gzip;q=0.001", true},
		{"identity", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Accept-Encoding", tt.accept)
		w := httptest.NewRecorder()
		if err := Serve(w, r, func(w io.Writer) error { return Write(w, sample()) }); err != nil {
			t.Fatal(err)
		}
		body := io.Reader(w.Body)
		if packed := w.Header().Get("Content-Encoding") == "gzip"; packed != tt.packed {
			t.Errorf("%q: got %v, want %v", tt.accept, packed, tt.packed)
		} else if packed {
			body, _ = gzip.NewReader(body)
		}
		text, err := io.ReadAll(body)
		if err != nil || !strings.HasSuffix(string(text), "took_seconds_count{route=\"/a\"} 4\n") || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%q: got %v %s", tt.accept, err, text)
		}
	}
	fault := errors.New("no")
	if err := Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), func(io.Writer) error { return fault }); !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
}
