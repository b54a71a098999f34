-- A module that ship_spec loads late.
return { late = true }
