package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages are what users read.
func pages(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("*.md")
	if err != nil || len(list) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return append(list, "../README.md", "../CHANGELOG.md")
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var markdownLink = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

// TestLinks looks for each file that a page links to.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range markdownLink.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s, which isn't there", page, m[1])
			}
		}
	}
}

// TestMakeTargets looks for each target that a page tells to make, and demands that CI
// makes those of the README.
func TestMakeTargets(t *testing.T) {
	makefile := read(t, "../Makefile")
	target := regexp.MustCompile(`(?m)^    make ([a-z-]+)`)
	ci := regexp.MustCompile(`(?m)^ci: ([^#]*)`).FindStringSubmatch(makefile)
	if ci == nil {
		t.Fatal("the Makefile has no target ci")
	}
	for _, page := range pages(t) {
		for _, m := range target.FindAllStringSubmatch(read(t, page), -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).MatchString(makefile) {
				t.Errorf("%s says make %s, which the Makefile doesn't know", page, m[1])
			}
			if !strings.Contains(" "+ci[1]+" ", " "+m[1]+" ") {
				t.Errorf("%s says make %s, which CI doesn't run", page, m[1])
			}
		}
	}
}

// TestReadmeNames looks for each name of our API that the README's Go code uses.
func TestReadmeNames(t *testing.T) {
	qualified := regexp.MustCompile(`\b(packetpool|tap|stack|smtpclient)\.([A-Z]\w+)`)
	seen := map[string]bool{}
	for _, m := range qualified.FindAllStringSubmatch(read(t, "../README.md"), -1) {
		if name := m[1] + "." + m[2]; !seen[name] {
			seen[name] = true
			if out, err := exec.Command("go", "doc", "github.com/duotap/duotap/"+m[1], m[2]).CombinedOutput(); err != nil {
				t.Errorf("the README uses %s: %s", name, out)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("the README shows no Go code")
	}
}

// TestNamedTests looks for each test that a page names; one with … stands for several.
func TestNamedTests(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			source.WriteString(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile("`(Test\\w+)(…?)`").FindAllStringSubmatch(read(t, page), -1) {
			named++
			if !strings.Contains(source.String(), "func "+m[1]) {
				t.Errorf("%s names %s, which isn't there", page, m[1])
			}
		}
	}
	if named == 0 {
		t.Error("no page names a test: this test looks for the wrong thing")
	}
}
