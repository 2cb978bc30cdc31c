package main

import (
	"encoding/json"
	"fmt"
	"os/user"
	"strconv"
	"text/tabwriter"

	"github.com/duotap/duotap/tap"
)

// tapCommand is duotap tap.
type tapCommand struct {
	Create tapCreateCommand `cmd:"" help:"Create a TAP that stays, and may be opened by its owner without privileges. Needs CAP_NET_ADMIN."`
	Delete tapDeleteCommand `cmd:"" help:"Delete a TAP. Needs CAP_NET_ADMIN, or to be its owner."`
	List   tapListCommand   `cmd:"" help:"List the TAPs of this network namespace."`
}

type tapCreateCommand struct {
	Name  string `required:"" help:"The interface, up to 15 bytes." placeholder:"NAME"`
	Owner string `help:"Who may open it: a user's name or id. Default: root." placeholder:"USER"`
	MTU   int    `name:"mtu" help:"Largest IP packet. Default: 1500." placeholder:"BYTES"`
}

// Run is called by kong.
func (c *tapCreateCommand) Run(p *program) error {
	uid, err := userID(c.Owner)
	if err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	name, err := tap.Create(tap.CreateConfig{Name: c.Name, Owner: uid, MTU: c.MTU})
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s is there; give it an address and bring it up:\n  ip addr add 192.0.2.1/24 dev %s && ip link set %s up\n", name, name, name)
	return nil
}

// userID finds the id of a user who is named or numbered; root if s is empty.
func userID(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	if id, err := strconv.Atoi(s); err == nil && id >= 0 {
		return id, nil
	}
	u, err := user.Lookup(s)
	if err != nil {
		return 0, fmt.Errorf("--owner %q: %w", s, err)
	}
	return strconv.Atoi(u.Uid)
}

type tapDeleteCommand struct {
	Name string `required:"" help:"The interface." placeholder:"NAME"`
}

// Run is called by kong.
func (c *tapDeleteCommand) Run(*program) error { return tap.Delete(c.Name) }

type tapListCommand struct {
	JSON bool `name:"json" help:"Print a JSON array."`
}

// tapEntry is one line of duotap tap list.
type tapEntry struct {
	Name       string `json:"name"`
	MTU        int    `json:"mtu"`
	MAC        string `json:"mac"`
	Up         bool   `json:"up"`
	Persistent bool   `json:"persistent"`
	InUse      bool   `json:"in_use"`
	Owner      int    `json:"owner"` // -1: anybody
}

// Run is called by kong.
func (c *tapListCommand) Run(p *program) error {
	infos, err := tap.List()
	if err != nil {
		return err
	}
	entries := make([]tapEntry, len(infos))
	for k, i := range infos {
		entries[k] = tapEntry{i.Name, i.MTU, i.MAC.String(), i.Up, i.Persistent, i.InUse, i.Owner}
	}
	if c.JSON {
		return json.NewEncoder(p.stdout).Encode(entries)
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tMTU\tMAC\tUP\tPERSISTENT\tIN USE\tOWNER")
	for _, e := range entries {
		owner := strconv.Itoa(e.Owner)
		if u, err := user.LookupId(owner); err == nil {
			owner = u.Username
		}
		if e.Owner < 0 {
			owner = "anybody"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", e.Name, e.MTU, e.MAC, yesNo(e.Up), yesNo(e.Persistent), yesNo(e.InUse), owner)
	}
	return w.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
