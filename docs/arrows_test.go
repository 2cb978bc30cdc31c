// Package docs holds what users and contributors read. Its tests keep that true.
package docs

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/duotap/duotap"

// forbidden lists imports that would turn an arrow of the architecture round, and why.
var forbidden = []struct{ from, to, why string }{
	{"packetpool", ".", "packets are a leaf: anything may use them"},
	{"stack/link", ".", "what a link is depends on no link and no stack"},
	{"tap", "gvisor.dev", "a TAP serves any stack"},
	{"tap", module + "/packetpool", "a device is handed the memory it receives into"},
	{"tap", module + "/stack$", "a device doesn't know who uses it"},
	{"smtpclient", "gvisor.dev", "mail runs over any net.Conn"},
	{"smtpclient", module + "/stack", "mail runs over any net.Conn"},
	{"smtpclient", module + "/tap", "mail runs over any net.Conn"},
	{"stack", module + "/tap", "the stack runs on any link.Device"},
	{"stack", module + "/smtpclient", "the stack doesn't know what it carries"},
}

// TestArrows checks the imports of every package, tests left out.
func TestArrows(t *testing.T) {
	for _, f := range forbidden {
		deps := imports(t, "-deps", "./"+f.from)
		if f.to == "." { // nothing but the standard library
			for _, d := range deps {
				if strings.Contains(strings.Split(d, "/")[0], ".") && d != module+"/"+f.from {
					t.Errorf("%s imports %s: %s", f.from, d, f.why)
				}
			}
			continue
		}
		exact, prefix := strings.CutSuffix(f.to, "$")
		for _, d := range deps {
			if d == exact || !prefix && strings.HasPrefix(d, f.to) {
				t.Errorf("%s imports %s: %s", f.from, d, f.why)
			}
		}
	}
}

// TestGVisorOnlyBelowStack keeps gVisor behind one package.
func TestGVisorOnlyBelowStack(t *testing.T) {
	list, err := goList(`{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...")
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, line := range list {
		pkg, direct, _ := strings.Cut(line, " ")
		uses := strings.Contains(direct, "gvisor.dev/")
		below := pkg == module+"/stack" || strings.HasPrefix(pkg, module+"/stack/")
		seen = seen || uses && below
		if uses && !below {
			t.Errorf("%s imports gVisor; only stack does", pkg)
		}
	}
	if !seen {
		t.Error("no package below stack imports gVisor: this test looks at the wrong thing")
	}
}

// TestPackageNames keeps out the packages that say nothing about what they hold.
func TestPackageNames(t *testing.T) {
	list, err := goList("{{.ImportPath}}", "./...")
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range list {
		for _, name := range strings.Split(pkg, "/") {
			if slices.Contains([]string{"pkg", "util", "utils", "types", "common", "helpers", "misc"}, name) {
				t.Errorf("%s: %q says nothing about what it holds", pkg, name)
			}
		}
	}
}

func imports(t *testing.T, args ...string) []string {
	t.Helper()
	list, err := goList("{{.ImportPath}}", args...)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatalf("go list %v lists nothing", args)
	}
	return list
}

func goList(format string, args ...string) ([]string, error) {
	cmd := exec.Command("go", append([]string{"list", "-f", format}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	return strings.Split(strings.TrimSpace(string(out)), "\n"), err
}
