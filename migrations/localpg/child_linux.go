package localpg

import "syscall"

// childOf has the kernel send the signal to the child when its parent dies, however that dies.
func childOf(death syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: death}
}
