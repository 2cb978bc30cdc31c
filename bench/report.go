package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report is what a run of a scenario came to.
type Report struct {
	Scenario string   `json:"scenario"`
	Machine  Machine  `json:"machine"`
	Rounds   int      `json:"rounds"`
	WarmupMS float64  `json:"warmup_ms"`
	WindowMS float64  `json:"window_ms"`
	Links    []string `json:"links"` // what each is, in a line
	Rows     []*Row   `json:"rows"`
}

// Machine is where the run took place.
type Machine struct {
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"` // that the program may use
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
}

// Row is a case over a link.
type Row struct {
	Link    Link      `json:"link"`
	Case    Case      `json:"case"`
	Name    string    `json:"name"` // the case as text
	Metrics []*Column `json:"metrics"`

	// Ratios compare the first metric with that of another row, round by round: "K" is
	// the kernel, "V" the TAP with plain frames, "x1" the same with one connection,
	// "raw" bulk TCP on the same link.
	Ratios map[string]Spread `json:"ratios,omitempty"`
}

// Column is a metric of a Row.
type Column struct {
	Name    string `json:"name"`
	Unit    string `json:"unit"`
	Rounds  values `json:"rounds"` // one value each; null where there was nothing to divide by
	Summary Spread `json:"summary"`
}

// values may have NaN among them, which JSON has no word for.
type values []float64

// MarshalJSON implements json.Marshaler.
func (v values) MarshalJSON() ([]byte, error) {
	p := make([]*float64, len(v))
	for k := range v {
		if !notNumber(v[k]) {
			p[k] = &v[k]
		}
	}
	return json.Marshal(p)
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *values) UnmarshalJSON(b []byte) error {
	var p []*float64
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*v = nil
	for _, f := range p {
		if f == nil {
			*v = append(*v, math.NaN())
		} else {
			*v = append(*v, *f)
		}
	}
	return nil
}

func newReport(cfg Config, s Scenario) *Report {
	return &Report{Scenario: s.Name(), Machine: machine(), Rounds: cfg.Rounds,
		WarmupMS: cfg.Warmup.Seconds() * 1e3, WindowMS: cfg.Window.Seconds() * 1e3}
}

func (r *Report) describe(l *testLink) {
	r.Links = append(r.Links, fmt.Sprintf("%s: %s", l.kind, l.about))
}

// row finds a row, or returns nil.
func (r *Report) row(l Link, c Case) *Row {
	c.Against = ""
	for _, row := range r.Rows {
		other := row.Case
		other.Against = ""
		if row.Link == l && other == c {
			return row
		}
	}
	return nil
}

// add notes what round number round has measured.
func (r *Report) add(round int, l Link, c Case, metrics []Metric) {
	row := r.row(l, c)
	if row == nil {
		row = &Row{Link: l, Case: c, Name: c.String()}
		for _, m := range metrics {
			row.Metrics = append(row.Metrics, &Column{Name: m.Name, Unit: m.Unit})
		}
		r.Rows = append(r.Rows, row)
	}
	for k, m := range metrics {
		row.Metrics[k].Rounds = append(row.Metrics[k].Rounds[:round:round], m.Value)
	}
}

// summarize computes what needs all rounds.
func (r *Report) summarize() {
	for _, row := range r.Rows {
		for _, m := range row.Metrics {
			m.Summary = spread(m.Rounds)
		}
		row.Ratios = map[string]Spread{}
		against := row.Case
		if against.Against != "" {
			against.Name = against.Against
		}
		r.compare(row, "K", r.row(Kernel, against))
		if row.Link != Kernel {
			r.compare(row, "V", r.row(TAPPlain, row.Case))
		}
		single := row.Case
		single.Count = 1
		r.compare(row, "x1", r.row(row.Link, single))
		r.compare(row, "raw", r.row(row.Link, Case{Name: rawCase, Family: row.Case.Family, Count: 1}))
	}
}

func (r *Report) compare(row *Row, name string, with *Row) {
	if with == nil || with == row {
		return
	}
	if q := ratios(row.Metrics[0].Rounds, with.Metrics[0].Rounds); len(q) > 0 {
		row.Ratios[name] = spread(q)
	}
}

// JSON writes the report as one object.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	fmt.Fprintf(w, "duotap bench %s: %d rounds, windows of %v ms after %v ms; %s, %d processors, Linux %s, %s\n",
		r.Scenario, r.Rounds, r.WindowMS, r.WarmupMS, r.Machine.CPU, r.Machine.Processors, r.Machine.Kernel, r.Machine.Go)
	for _, l := range r.Links {
		fmt.Fprintf(w, "  %s\n", l)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	r.header(t)
	for _, row := range r.Rows {
		row.print(t, r.ratios())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, "\nMedians, and in brackets the smallest and largest. K, V, x1, raw: the first figure as a multiple\n"+
		"of the kernel's, the plain TAP's, that of one connection, that of raw TCP; medians over rounds.\n"+
		"One machine, a virtual link: this says what the stack costs, not what a network would carry.\n")
	return err
}

// ratios are the names of those that there are.
func (r *Report) ratios() []string {
	var names []string
	for _, name := range []string{"K", "V", "x1", "raw"} {
		if slices.ContainsFunc(r.Rows, func(row *Row) bool { return row.Ratios[name].N > 0 }) {
			names = append(names, name)
		}
	}
	return names
}

func (r *Report) header(w io.Writer) {
	if len(r.Rows) == 0 {
		return
	}
	cells := []string{"link", "case"}
	for k, m := range r.Rows[0].Metrics {
		cells = append(cells, strings.TrimSpace(m.Name+" "+m.Unit))
		if k == 0 {
			cells = append(append(cells, ""), r.ratios()...)
		}
	}
	fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
}

func (row *Row) print(w io.Writer, names []string) {
	cells := []string{string(row.Link), row.Name}
	for k, m := range row.Metrics {
		cell := "-"
		if m.Summary.N > 0 {
			cell = number(m.Summary.Median)
		}
		cells = append(cells, cell)
		if k > 0 {
			continue
		}
		cells = append(cells, "["+number(m.Summary.Min)+".."+number(m.Summary.Max)+"]")
		for _, name := range names {
			cell := ""
			if q, ok := row.Ratios[name]; ok {
				cell = fmt.Sprintf("%.2f [%.2f..%.2f]", q.Median, q.Min, q.Max)
			}
			cells = append(cells, cell)
		}
	}
	fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
}

// GoBench writes the report in the format of go test -bench, a line for each round, for
// benchstat. Rounds are measured for a time, so the number of iterations says nothing,
// and is 1.
func (r *Report) GoBench(w io.Writer) error {
	fmt.Fprintf(w, "goos: %s\ngoarch: %s\npkg: github.com/duotap/duotap/bench\ncpu: %s\n", runtime.GOOS, runtime.GOARCH, r.Machine.CPU)
	fmt.Fprintf(w, "go: %s\nkernel: %s\nwindow-ms: %v\n", r.Machine.Go, r.Machine.Kernel, r.WindowMS)
	for _, row := range r.Rows {
		for round := range row.Metrics[0].Rounds {
			if err := row.goBench(w, r, round); err != nil {
				return err
			}
		}
	}
	return nil
}

func (row *Row) goBench(w io.Writer, r *Report, round int) error {
	title := strings.ToUpper(r.Scenario[:1]) + r.Scenario[1:]
	line := fmt.Sprintf("Benchmark%s/%s/%s-%d\t1", title, row.Name, row.Link, r.Machine.Processors)
	for k, m := range row.Metrics {
		if round >= len(m.Rounds) || notNumber(m.Rounds[round]) {
			continue
		}
		line += fmt.Sprintf("\t%g %s", m.Rounds[round], m.goUnit(k == 0))
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// goUnit is the unit with the metric's name, which has to be one word.
func (c *Column) goUnit(first bool) string {
	name := strings.ReplaceAll(strings.TrimSpace(c.Unit), " ", "-")
	if !first || name == "" {
		name = strings.Trim(c.Name+"-"+name, "-")
	}
	return strings.ReplaceAll(name, " ", "-")
}
