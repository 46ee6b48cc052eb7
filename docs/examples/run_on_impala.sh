#!/bin/sh
# A script on the coordinator that the balancer picks, by impala-shell, counted there until it ends:
#
#   export IMPALA_LB_CONFIG=/etc/impala_lb.yml
#   HOLD=7200 run_on_impala.sh -f x.sql --var=day=2026-01-01
#
# All arguments go to impala-shell. HOLD: seconds, longer than the work takes (default 3600). IMPALA_LB, IMPALA_SHELL:
# the two commands, if they are not on the PATH. Exit code: impala-shell's own; 125 if no coordinator was picked.
set -u

lb=${IMPALA_LB:-impala-lb}
lease=
work=

end() {
  trap - EXIT HUP INT TERM
  # The work first: a lease that goes before it makes its node look idle.
  if [ -n "$work" ]; then kill "$work" 2>/dev/null && wait "$work"; fi
  if [ -n "$lease" ]; then "$lb" release "$lease" || :; fi
  exit "$1"
}
trap 'end $?' EXIT # also for a mistake in this script
trap 'end 129' HUP
trap 'end 130' INT
trap 'end 143' TERM

picked=$("$lb" pick --hold "${HOLD:-3600}" </dev/null) || exit 125 # prints: host:port ID
lease=${picked#* }

# In the background, since a shell runs its traps only after the command in the foreground has ended; with the
# standard input of this script, which a background command would not have.
exec 3<&0
"${IMPALA_SHELL:-impala-shell}" --protocol=hs2 -i "${picked% *}" "$@" <&3 &
work=$!
wait "$work"
code=$?
work=
exit "$code"
