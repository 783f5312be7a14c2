"""``memcoord bench smartmem``: the situations of SmarTmem, who gains and who pays."""
