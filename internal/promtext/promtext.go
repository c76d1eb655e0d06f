// Package promtext writes metrics in the text format of Prometheus, version 0.0.4. It also has the
// histogram of that format. It exists because the client library of Prometheus would add 2.5 MB to the
// program, mostly for its other format.
package promtext

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"latchkey/internal/acceptgzip"
	"latchkey/internal/sorted"
)

// Kind is the type of a metric.
type Kind string

// The kinds of metrics.
const (
	KindCounter   Kind = "counter"   // a number that only grows while the program runs
	KindGauge     Kind = "gauge"     // a number that can also fall
	KindHistogram Kind = "histogram" // counts of values by size, see Histogram
)

// Metric is one metric with all of its series.
type Metric struct {
	Name    string
	Help    string // one sentence
	Kind    Kind
	Labels  []string         // names of the labels that each series has
	Collect func(to *Series) // adds the series; called each time the metrics are written
}

// Series takes the series of one metric. They are written in the order of their label values.
type Series struct {
	metric Metric
	list   []series
}

type series struct {
	labels []string // values, one for each of Metric.Labels
	value  float64
	sizes  *Histogram // of a histogram, in place of value
}

// Add adds the series of a counter or a gauge with these values of the labels.
func (s *Series) Add(value float64, labels ...string) {
	s.list = append(s.list, series{labels: labels, value: value})
}

// AddHistogram adds the series of a histogram with these values of the labels.
func (s *Series) AddHistogram(h *Histogram, labels ...string) {
	s.list = append(s.list, series{labels: labels, sizes: h})
}

// Write writes the metrics in the given order. A metric without series is left out.
func Write(w io.Writer, metrics []Metric) error {
	var page bytes.Buffer
	for _, m := range metrics {
		all := Series{metric: m}
		m.Collect(&all)
		if len(all.list) == 0 {
			continue
		}
		fmt.Fprintf(&page, "# HELP %s %s\n# TYPE %s %s\n", m.Name, helpEscapes.Replace(m.Help), m.Name, m.Kind)
		sorted.Func(all.list, func(a, b series) int { return slices.Compare(a.labels, b.labels) })
		for _, one := range all.list {
			all.write(&page, one)
		}
	}
	_, err := w.Write(page.Bytes())
	return err
}

var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// write writes the lines of one series.
func (s *Series) write(page *bytes.Buffer, one series) {
	var pairs []string
	for i, name := range s.metric.Labels {
		pairs = append(pairs, name+`="`+labelEscapes.Replace(one.labels[i])+`"`)
	}
	line := func(suffix string, value float64, more ...string) {
		page.WriteString(s.metric.Name + suffix)
		if all := append(slices.Clip(pairs), more...); len(all) > 0 {
			page.WriteString("{" + strings.Join(all, ",") + "}")
		}
		page.WriteString(" " + number(value) + "\n")
	}
	if one.sizes == nil {
		line("", one.value)
		return
	}
	total := uint64(0)
	for i := range one.sizes.counts {
		bound := math.Inf(1)
		if i < len(one.sizes.bounds) {
			bound = one.sizes.bounds[i]
		}
		total += one.sizes.counts[i].Load()
		line("_bucket", float64(total), `le="`+number(bound)+`"`)
	}
	line("_sum", math.Float64frombits(one.sizes.sum.Load()))
	line("_count", float64(total))
}

// number returns a value as the format writes it.
func number(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// Histogram counts values by size. It is safe for concurrent use and takes no lock.
type Histogram struct {
	bounds []float64
	counts []atomic.Uint64 // values up to each bound but above the one before it, and then those above the last
	sum    atomic.Uint64   // bits of the sum of all values
}

// NewHistogram returns a Histogram with these upper bounds, which must be in ascending order.
func NewHistogram(bounds ...float64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Observe counts a value. It does not allocate.
func (h *Histogram) Observe(value float64) {
	i, _ := slices.BinarySearch(h.bounds, value)
	h.counts[i].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+value)) {
			return
		}
	}
}

// Serve answers a request with the output of write, compressed if the client accepts gzip.
func Serve(w http.ResponseWriter, r *http.Request, write func(w io.Writer) error) error {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Vary", "Accept-Encoding")
	if !acceptgzip.By(r.Header) {
		return write(w)
	}
	w.Header().Set("Content-Encoding", "gzip")
	packed := gzip.NewWriter(w)
	if err := write(packed); err != nil {
		return err
	}
	return packed.Close()
}
