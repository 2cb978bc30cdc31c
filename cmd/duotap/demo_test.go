package main

import "testing"

// jsonDemo is what demo --json promises.
type jsonDemo struct {
	Link      string `json:"link"`
	Why       string `json:"why_not_tap"`
	Offload   bool   `json:"offload"`
	MTU       int    `json:"mtu"`
	Transfers []struct {
		Family  string  `json:"family"`
		Server  string  `json:"server"`
		Bytes   int64   `json:"bytes"`
		Packets int64   `json:"packets"`
		Seconds float64 `json:"seconds"`
		Frames  uint64  `json:"frames_sent"`
		MBPerS  float64 `json:"mb_per_s"`
	} `json:"transfers"`
	ClientPool   jsonPool `json:"client_pool"`
	InstancePool jsonPool `json:"instance_pool"`
	PeakResident int64    `json:"peak_resident_bytes"`
}

// The demo sends at least a mebibyte through at most 16 packets of 1,514 bytes, over
// each family, and gives all packets back.
func TestDemoJSON(t *testing.T) {
	for _, link := range []string{"memory", "tap", "tap-plain"} {
		t.Run(link, func(t *testing.T) {
			if link != "memory" {
				requireTAP(t)
			}
			r := duotap(t, nil, "demo", "--link", link, "--json")
			r.mustSucceed(t)
			var got jsonDemo
			parseJSON(t, r, &got)
			if got.Link != link || got.Why != "" || got.MTU != 1500 || got.Offload != (link != "tap-plain") || len(got.Transfers) != 2 {
				t.Errorf("link: %s", r.stdout)
			}
			for k, x := range got.Transfers {
				least := int64(1<<20) / int64(1514-families[k].headroom)
				if x.Family != families[k].name || x.Server != families[k].smtp() || x.Bytes < 1<<20 || x.Packets < least ||
					x.Frames == 0 || x.Seconds <= 0 || x.MBPerS <= 0 {
					t.Errorf("transfer: %+v", x)
				}
			}
			if p := got.ClientPool; p.Total > 16 || p.Free != p.Total || p.LowestFree != 0 || p.InvalidReleases != 0 {
				t.Errorf("client pool: %+v", p)
			}
			if p := got.InstancePool; p.Free != p.Total || p.InvalidReleases != 0 {
				t.Errorf("instance pool: %+v", p)
			}
			if got.PeakResident < 1<<20 || got.PeakResident > 256<<20 { // the race detector's, too
				t.Errorf("peak of resident memory: %d bytes", got.PeakResident)
			}
		})
	}
}
