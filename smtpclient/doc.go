// Package smtpclient sends mail to an SMTP server (RFC 5321) over any net.Conn, with
// all that it sends in the packets of one pool, so that a message of any size needs no
// more memory than the pool has.
//
// # The procedure
//
// [Client.Send] makes one connection for one mail:
//
//  1. Check the mail: addresses, subject, priority. What can't be put on the wire as
//     it is, is refused before there is a connection ([ErrAddress], [ErrSubject]).
//  2. Connect (Config.Dialer), with its packets if it can take them.
//  3. Wait for the greeting, 220 (RFC 5321 §3.1).
//  4. Introduce the client with EHLO, or with HELO if the server refuses that with
//     500, 502, 504 or 550 (§3.2, §4.1.1.1). If the server offers STARTTLS (RFC 3207),
//     encrypt, verify its certificate, and begin this step again. With [TLSImplicit]
//     that comes before step 3.
//  5. Authenticate (RFC 4954), if Config.Auth and the server agree on a mechanism, and
//     only where the credentials may be seen.
//  6. MAIL, with BODY=8BITMIME (RFC 6152) and MT-PRIORITY (RFC 6710) where offered.
//  7. RCPT for each recipient. The mail goes to those that are accepted.
//  8. DATA, then header, body and final dot (§4.5.2), read from Mail.Body and sent
//     piece by piece. A server that answers before the end isn't sent the rest.
//  9. Read the server's verdict, and note it for each recipient.
//  10. QUIT, whose answer changes nothing, and close.
//
// [Client.Check] goes as far as step 5 and leaves.
//
// Each step has a time limit ([Timeouts]), and the context ends any of them at once.
//
// # Outcomes
//
// A mail is delivered, refused or unknown, for each recipient ([Outcome]). Unknown is
// what nobody likes and every client has: the connection failed after the end of the
// message was sent, and before the answer came. To send again may deliver twice; not to
// send again may lose the mail. The caller decides, and [ErrUnknownOutcome] tells it
// that there is something to decide.
//
// After a failed read or write, and after a reply that can't be one, a session is
// broken: it sends nothing more, not even QUIT, because the next reply might belong to
// an earlier command.
//
// # Encryption
//
// The zero value of [TLSConfig] encrypts where the server offers it, and then accepts
// only a certificate that an authority of the system has issued for the server's name.
// This keeps out who only listens. Who can change what is on the way can remove the
// offer; against that there are [TLSRequireStartTLS] and [TLSImplicit], with which
// neither credentials nor mail are ever sent in clear. What the server says in clear
// counts for nothing once there is TLS, and clear text where TLS has to begin ends the
// session ([ErrPlaintextAfterSTARTTLS]).
//
// # Memory
//
// Commands and message go through packets of Config.Pool. The client takes one packet,
// fills it, extends the chain as long as the pool has packets to give at once, and
// sends. It never waits for a packet while it holds one, and holds none while it waits
// for the body or for the server. So one packet is enough, several clients can share a
// pool, and an empty pool is an error after Config.PacketTimeout and not a standstill.
//
// Beside the packets, a Send holds 60 KiB to read the body to, 4 KiB to read replies
// to, the generated header, and the Receipt, of which each reply has at most 1 KiB of
// text. TLS takes a buffer of 16 KiB, and what package crypto/tls needs; packets are
// copied to its records then. The library copies the body's bytes twice: from the reader to those 60 KiB, and
// from there to packets.
//
// # What the body becomes
//
// Any bytes may be in the body. On the wire each line ends with CRLF, whether it ended
// with CRLF, a bare LF or a bare CR; a dot at the beginning of a line is doubled (the
// server halves it again); the last line gets its CRLF if it has none. NUL and bytes
// above 127 go as they are, and so do lines longer than the 998 octets that RFC 5321
// §4.5.3.1.6 promises to all. Therefore no server can see the end of the message
// anywhere but at its end.
//
// If the server doesn't offer 8BITMIME, a message with bytes above 127 is refused
// ([ErrNo8BitMIME]) before a byte of the line with the first of them is sent, unless
// that line is longer than 60 KiB. The server has then been told to expect a message,
// and the connection is dropped so that it takes none.
//
// # What is not here
//
// Several mails on one connection, PIPELINING, CHUNKING, SIZE, DSN, addresses in UTF-8
// (SMTPUTF8), attachments.
//
// # Server quirks that are tolerated
//
// Replies without text; spaces before a reply code; AUTH= for AUTH in the EHLO reply;
// LOGIN prompts with any words; 235 to AUTH PLAIN before the answer. Not tolerated:
// reply lines that don't end with CRLF, or with a NUL in them; replies that change
// their code half-way; answers that come before the command.
package smtpclient
