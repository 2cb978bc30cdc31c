package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
)

// smtp is an SMTP server that accepts every message and keeps none.
func (p *peer) smtp(c net.Conn) error {
	r := bufio.NewReaderSize(c, readSize)
	if _, err := io.WriteString(c, "220 bench.example ESMTP\r\n"); err != nil {
		return err
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		if _, err := io.WriteString(c, smtpReply(verb)); err != nil {
			return err
		}
		switch verb {
		case "DATA":
			err = p.smtpMessage(c, r)
		case "QUIT":
			return nil // and closes, before the client does
		}
		if err != nil {
			return err
		}
	}
}

func smtpReply(verb string) string {
	switch verb {
	case "EHLO":
		return "250-bench.example\r\n250 8BITMIME\r\n"
	case "HELO", "MAIL", "RCPT", "RSET", "NOOP":
		return "250 OK\r\n"
	case "DATA":
		return "354 go on\r\n"
	case "QUIT":
		return "221 bye\r\n"
	}
	return "502 no such command\r\n"
}

// smtpMessage reads a message up to its final dot. The client sends nothing behind that
// before it has an answer, and nothing like it within; so it is enough to look at the
// end of what has arrived, and to let the bytes pass as fast as those of raw TCP.
func (p *peer) smtpMessage(c net.Conn, r *bufio.Reader) error {
	end := []byte("\r\n.\r\n")
	tail := []byte("\r\n") // the line of DATA had one, so an empty message is a dot only
	buf := make([]byte, readSize)
	for !bytes.Equal(tail, end) {
		n, err := r.Read(buf)
		if err != nil {
			return fmt.Errorf("reading a message: %w", err)
		}
		p.traffic.bytes.Add(int64(n))
		tail = append(tail, buf[max(0, n-len(end)):n]...)
		tail = tail[max(0, len(tail)-len(end)):]
	}
	p.traffic.packets.Add(1)
	_, err := io.WriteString(c, "250 kept nothing\r\n")
	return err
}
