// Command duotap sends mail over a TCP/IP of its own on a TAP interface.
//
//	duotap demo     the main job, with nothing to configure
//	duotap send     send a mail, its body from standard input
//	duotap check    walk the way to a server and say where it ends
//	duotap ping     echo requests, IPv4 and IPv6
//	duotap tap      create, delete, list persistent TAPs
//
// Each has --help. With --json, demo, send and check print one object for programs. Exit
// codes are those of sysexits.h, and 79 for a mail that failed after its end had been
// sent, and may or may not have been delivered; see exit.go.
//
// This package holds the flags, the output and the exit codes, and puts the parts
// together: each command is one file, with a type whose Run does it.
package main
