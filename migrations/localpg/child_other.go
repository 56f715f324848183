//go:build unix && !linux

package localpg

import "syscall"

// childOf can promise nothing here: a child whose parent was killed lives on until the next Start stops it.
func childOf(syscall.Signal) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
