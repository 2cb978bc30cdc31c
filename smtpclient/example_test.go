package smtpclient_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/smtpclient"
	"github.com/duotap/duotap/smtpclient/smtptest"
)

// A mail through a pool of four packets. The dialer here is a network in memory; a
// stack.Instance and a net.Dialer do as well.
func Example() {
	network := smtptest.Listen()
	server := &smtptest.Store{Username: "device", Password: "secret"}
	go server.Serve(network)
	defer network.Close()

	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: 4, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	client, err := smtpclient.New(smtpclient.Config{
		Dialer:             network,
		Pool:               pool,
		Server:             "192.0.2.25:25",
		Domain:             "device.example",
		From:               "device@example.org",
		Auth:               smtpclient.AuthPlain,
		Username:           "device",
		Password:           smtpclient.NewSecret("secret"),
		AllowPlaintextAuth: true, // nobody listens in this memory
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	receipt, err := client.Send(ctx, smtpclient.Mail{
		To:       []string{"ops@example.org"},
		Subject:  "hot",
		Priority: smtpclient.PriorityHigh,
		Body:     strings.NewReader("It is 81 degrees in here.\n"),
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range receipt.Recipients {
		fmt.Println(r.Address, r.Outcome)
	}
	fmt.Println(pool.Stats().Free, "of", pool.Stats().Total, "packets are free")
	// Output:
	// ops@example.org delivered
	// 4 of 4 packets are free
}

// What to do with a mail that wasn't delivered is a question of its recipients.
func ExampleClient_Send_outcomes() {
	network := smtptest.Listen()
	server := smtptest.Serve(network, smtptest.MustParse(`S: 220 mx.example
C~ EHLO .*
S: 250 mx.example
C~ MAIL FROM:.*
S: 250 ok
C: RCPT TO:<a@example.org>
S: 250 ok
C: RCPT TO:<b@example.org>
S: 550 5.1.1 no such user
C: RCPT TO:<c@example.org>
S: 450 4.2.1 mailbox busy
C: DATA
S: 354 go ahead
C.
! close`))
	defer server.Close()
	pool, err := packetpool.New(packetpool.Config{Packets: 1, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	client, err := smtpclient.New(smtpclient.Config{
		Dialer: network, Pool: pool, Server: "192.0.2.25:25", From: "device@example.org",
	})
	if err != nil {
		log.Fatal(err)
	}
	receipt, err := client.Send(context.Background(), smtpclient.Mail{
		To: []string{"a@example.org", "b@example.org", "c@example.org"},
	})
	for _, r := range receipt.Recipients {
		switch {
		case r.Outcome == smtpclient.Delivered:
			fmt.Println(r.Address, "is done")
		case r.Outcome == smtpclient.Unknown:
			fmt.Println(r.Address, "may have it or not")
		case r.Temporary:
			fmt.Println(r.Address, "may be tried again:", r.Reply)
		default:
			fmt.Println(r.Address, "won't get it:", r.Reply)
		}
	}
	fmt.Println("in doubt:", errors.Is(err, smtpclient.ErrUnknownOutcome))
	// Output:
	// a@example.org may have it or not
	// b@example.org won't get it: 550 5.1.1 no such user
	// c@example.org may be tried again: 450 4.2.1 mailbox busy
	// in doubt: true
}

// The error says which step failed, and whether it is worth trying again.
func ExampleError() {
	network := smtptest.Listen()
	server := smtptest.Serve(network, smtptest.MustParse("S: 554 5.7.1 you are on my list"))
	defer server.Close()
	pool, err := packetpool.New(packetpool.Config{Packets: 1, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	client, err := smtpclient.New(smtpclient.Config{
		Dialer: network, Pool: pool, Server: "192.0.2.25:25", From: "device@example.org",
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Send(context.Background(), smtpclient.Mail{To: []string{"ops@example.org"}})
	if e, ok := errors.AsType[*smtpclient.Error](err); ok {
		fmt.Println(e.Step, e.Code, e.Enhanced, e.Temporary())
	}
	fmt.Println(err)
	// Output:
	// greeting 554 5.7.1 false
	// smtp server 192.0.2.25:25: greeting: 554 5.7.1 you are on my list (the server doesn't serve this client; check its access rules and Config.Domain)
}

// The dialogue, as it happens. Passwords and the message are not shown.
func ExampleTraceTo() {
	network := smtptest.Listen()
	server := smtptest.Serve(network, smtptest.MustParse("S: 421 4.3.2 come back later"))
	defer server.Close()
	pool, err := packetpool.New(packetpool.Config{Packets: 1, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	trace := smtpclient.TraceTo(os.Stdout)
	client, err := smtpclient.New(smtpclient.Config{
		Dialer: network, Pool: pool, Server: "192.0.2.25:25", From: "device@example.org",
		Trace: func(e smtpclient.TraceEvent) {
			e.Elapsed = 0 // for the sake of this example
			trace(e)
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	_, _ = client.Send(context.Background(), smtpclient.Mail{To: []string{"ops@example.org"}})
	// Output:
	//     0.000 *: connected to 192.0.2.25:25 at 192.0.2.25:25
	//     0.000 S: 421 4.3.2 come back later
}

// A server that is known by the fingerprint of its certificate, and a password that
// neither it nor anybody on the way gets to see.
func ExampleTLSConfig() {
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: 4, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	_, err = smtpclient.New(smtpclient.Config{
		Dialer: new(net.Dialer),
		Pool:   pool,
		Server: "mx.example.org:587",
		From:   "device@example.org",
		TLS: smtpclient.TLSConfig{
			Mode: smtpclient.TLSRequireStartTLS,
			// As "openssl x509 -fingerprint -sha256" prints it.
			Fingerprints: []string{"9F:86:D0:81:88:4C:7D:65:9A:2F:EA:A0:C5:5A:D0:15:A3:BF:4F:1B:2B:0B:82:2C:D1:5D:6C:15:B0:F0:0A:08"},
		},
		Username:  "device",
		Password:  smtpclient.NewSecret("secret"),
		AuthFloor: smtpclient.AuthSCRAMSHA1,
	})
	fmt.Println(err)
	// Output:
	// <nil>
}
